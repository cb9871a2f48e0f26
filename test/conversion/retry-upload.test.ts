import { toRanges } from '../../conversion/page-selection.ts';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { COMPLETED, completedPage, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { splitUpload } from './split-upload.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const CONFLICT = { code: 'conflict', status: 409 };
const UNKNOWN = '01a20a0b-5ccf-7021-8000-000000000000';
const failedPage = (page: number) =>
  ({ page, status: 'failed', error: { code: 'corrupt_file', message: 'cannot be read' } }) as const;

/** Records every page of the claimed jobs, and completes them. */
async function work(claimed: ClaimedJob[]): Promise<void> {
  for (const attempt of claimed) {
    const { pages } = attempt.payload as { pages: [number, number][] };
    for (const [from, to] of pages) {
      for (let page = from; page <= to; page++) await recordPages(fixture.db, attempt, [completedPage(page)]);
    }
    await fixture.settle(attempt, COMPLETED);
  }
}

test('a retried upload repeats only failed pages and ranges', async () => {
  const { upload, root, ranges } = await splitUpload(fixture, 8);
  const [good, flawed, bad, half] = ranges as [ClaimedJob, ClaimedJob, ClaimedJob, ClaimedJob];
  await work([good]);
  for (const outcome of [completedPage(3), failedPage(4)]) await recordPages(fixture.db, flawed, [outcome]);
  await fixture.settle(flawed, COMPLETED);
  await fixture.settle(bad, FAILED_PERMANENTLY);
  await recordPages(fixture.db, half, [completedPage(7)]);
  await fixture.settle(half, FAILED_PERMANENTLY);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'failed', pagesDone: 4, pagesTotal: 8 });

  expect(await fixture.retryUpload(upload)).toBe(true);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'processing', error: null, finishedAt: null });
  expect(await fixture.job(root)).toMatchObject({ status: 'running', pendingChildren: 3, queueId: null });
  const again = await fixture.claim();
  expect(
    again
      .map(({ id, attempt, payload }) => ({ known: [bad.id, half.id].includes(id), attempt, pages: payload.pages }))
      .toSorted((a, b) => JSON.stringify(a.pages).localeCompare(JSON.stringify(b.pages))),
  ).toEqual([
    { known: false, attempt: 2, pages: [[4, 4]] },
    { known: true, attempt: 2, pages: [[5, 6]] },
    { known: true, attempt: 2, pages: [[7, 8]] },
  ]);
  await work(again);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'completed', pagesDone: 8, error: null });
  expect((await fixture.pages(upload)).map(({ page, status }) => [page, status])).toEqual(
    Array.from({ length: 8 }, (_, index) => [index + 1, 'completed']),
  );
  expect(await fixture.attempts(good.id)).toHaveLength(1);
  expect(await fixture.attempts(root)).toHaveLength(1);
});

test('a retried upload makes the failed pages of an unsplit original in each retry', async () => {
  const upload = await fixture.upload();
  const root = await fixture.claimOne();
  await recordInspection(fixture.db, root, { pageCount: 4, selected: [[1, 4]] });
  for (const outcome of [completedPage(1), failedPage(2), failedPage(3), completedPage(4)])
    await recordPages(fixture.db, root, [outcome]);
  await fixture.settle(root, COMPLETED);
  for (const attempt of [2, 3]) {
    await fixture.retryUpload(upload);
    const part = await fixture.claimOne();
    expect(part).toMatchObject({ parentId: root.id, attempt, payload: { pages: toRanges([2, 3]) } });
    for (const page of [2, 3]) await recordPages(fixture.db, part, [failedPage(page)]);
    await fixture.settle(part, COMPLETED);
    expect(await fixture.findUpload(upload)).toMatchObject({ status: 'failed', pagesDone: 2 });
  }
  expect(await fixture.attempts(root.id)).toHaveLength(1);
});

test('a retried upload continues after a cancel', async () => {
  const { upload, ranges } = await splitUpload(fixture);
  await work(ranges.slice(0, 1));
  await fixture.cancelUpload(upload);
  await fixture.retryUpload(upload);
  const again = await fixture.claim();
  expect(again.map(({ id }) => id)).toEqual(ranges.slice(1).map(({ id }) => id));
  await work(again);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'completed', pagesDone: 6 });
});

test('a retried upload runs only originals again that have not completed', async () => {
  const upload = await fixture.upload(3);
  const [completed, failed, cancelled] = (await fixture.claim()) as [ClaimedJob, ClaimedJob, ClaimedJob];
  await fixture.settle(completed, COMPLETED);
  await fixture.settle(failed, FAILED_PERMANENTLY);
  await fixture.cancel(cancelled.id);
  await fixture.retryUpload(upload);
  expect(await fixture.statuses(completed.id, failed.id, cancelled.id)).toEqual(['completed', 'ready', 'ready']);
  await fixture.finishAll();
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'completed', error: null });
});

test('only a failed or cancelled upload can be retried', async () => {
  const upload = await fixture.upload();
  await expect(fixture.retryUpload(upload)).rejects.toMatchObject(CONFLICT);
  const attempt = await fixture.claimOne();
  await expect(fixture.retryUpload(upload)).rejects.toMatchObject(CONFLICT);
  await fixture.settle(attempt, COMPLETED);
  await expect(fixture.retryUpload(upload)).rejects.toMatchObject({
    ...CONFLICT,
    message: 'the upload is completed: only failed or cancelled uploads can be retried',
  });
  expect(await fixture.retryUpload(UNKNOWN)).toBe(false);
});

test('a retried upload runs once when it is retried twice at the same time', async () => {
  for (let round = 0; round < 20; round++) {
    const upload = await fixture.upload();
    await fixture.finishAll(FAILED_PERMANENTLY);
    const results = await Promise.allSettled([fixture.retryUpload(upload), fixture.retryUpload(upload)]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(await fixture.finishAll()).toHaveLength(1);
  }
});
