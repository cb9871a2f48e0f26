import { eq } from 'drizzle-orm';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import { jobs } from '../../db/schema.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { NewJob } from '../../jobs/submit.ts';
import {
  COMPLETED,
  completedPage,
  FAILED_PERMANENTLY,
  type JobsFixture,
  openJobsFixture,
  SMALL,
} from '../jobs/fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const archiveOf = (upload: string, more: Partial<NewJob> = {}): NewJob => ({
  type: 'archive',
  priority: 'normal',
  payload: { upload_id: upload },
  shape: SMALL,
  ...more,
});
async function accept(...newJobs: NewJob[]): Promise<string[]> {
  return (await acceptJobs(fixture.db, fixture.queues, newJobs)).map(({ id }) => id);
}
const refused = { status: 429, code: 'too_many_requests', details: { retry_after_seconds: expect.any(Number) } };

/** An upload of two pages, one of which is complete, with the running attempt. */
async function convertHalf(): Promise<{ upload: string; attempt: ClaimedJob }> {
  const upload = await fixture.upload();
  const attempt = await fixture.claimOne();
  await recordInspection(fixture.db, attempt, { pageCount: 2, selected: [[1, 2]] });
  await recordPages(fixture.db, attempt, [completedPage(1)]);
  return { upload, attempt };
}

async function finish(attempt: ClaimedJob): Promise<void> {
  await recordPages(fixture.db, attempt, [completedPage(2)]);
  await fixture.settle(attempt, COMPLETED);
}

const completed = (pages: number) => ({ kind: 'completed' as const, result: { pages, path: 'a.zip' } });

test('an archive that waits or has all pages is reused, and one that fails is not', async () => {
  const { upload, attempt } = await convertHalf();
  await finish(attempt);
  const [failed] = await accept(archiveOf(upload));
  expect(await accept(archiveOf(upload), archiveOf(upload))).toEqual([failed, failed]);
  await fixture.settle(await fixture.claimOne(), FAILED_PERMANENTLY);
  const [good = ''] = await accept(archiveOf(upload));
  expect(good).not.toBe(failed);
  const running = await fixture.claimOne();
  expect(await accept(archiveOf(upload))).toEqual([good]);
  await fixture.settle(running, completed(2));
  // An ended upload gets no more pages.
  expect(await accept(archiveOf(upload, { dependsOn: [good] }), archiveOf(upload))).toEqual([good, good]);
  expect(await fixture.db.$count(jobs, eq(jobs.type, 'archive'))).toBe(2);
});

test('an archive that lacks pages is made again, after the running one has ended', async () => {
  const { upload, attempt } = await convertHalf();
  const [partial] = await accept(archiveOf(upload));
  const running = await fixture.claimOne();
  await expect(accept(archiveOf(upload))).rejects.toMatchObject(refused);
  await fixture.settle(running, completed(1));
  expect(await accept(archiveOf(upload))).toEqual([partial]);
  await finish(attempt);
  const [complete] = await accept(archiveOf(upload));
  expect(complete).not.toBe(partial);
});

test('an archive that waits for another job is not reused by a request without dependencies', async () => {
  const { upload, attempt } = await convertHalf();
  const [waits] = await accept(archiveOf(upload, { dependsOn: [attempt.id] }));
  await expect(accept(archiveOf(upload))).rejects.toMatchObject(refused);
  await finish(attempt);
  expect(await accept(archiveOf(upload))).toEqual([waits]);
});

test('concurrent requests for an archive of one upload share one job', async () => {
  for (let round = 0; round < 5; round++) {
    const upload = await fixture.upload();
    const answers = await Promise.all(Array.from({ length: 8 }, () => accept(archiveOf(upload))));
    expect(new Set(answers.flat()).size).toBe(1);
  }
});

test('each owner has a separate archive', async () => {
  const upload = await fixture.upload();
  expect(new Set(await accept(archiveOf(upload), archiveOf(upload, { owner: 'ann' }))).size).toBe(2);
});

test('an archive of a deleted upload is refused as unknown_upload', async () => {
  const upload = await fixture.upload();
  await fixture.deleteUpload(upload);
  await expect(accept(archiveOf(upload))).rejects.toMatchObject({ status: 422, code: 'unknown_upload' });
});
