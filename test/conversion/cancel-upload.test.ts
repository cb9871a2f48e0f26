import { asc, eq } from 'drizzle-orm';
import { recordPages } from '../../conversion/record-pages.ts';
import { jobs } from '../../db/schema.ts';
import { lockChange } from '../../jobs/change-lock.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_PERMANENTLY,
  type JobsFixture,
  openJobsFixture,
  range,
} from '../jobs/fixture.ts';
import { both, splitUpload } from './split-upload.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const CONFLICT = { code: 'conflict', status: 409 };
const UNKNOWN = '01a20a0b-5ccf-7021-8000-000000000000';

async function statusesOf(uploadId: string): Promise<string[]> {
  const rows = await fixture.db.select().from(jobs).where(eq(jobs.uploadId, uploadId)).orderBy(asc(jobs.id));
  return rows.map(({ status }) => status);
}

test('a cancelled upload ends with all of its jobs in any status, and keeps its good pages', async () => {
  const { upload, root, ranges } = await splitUpload(fixture, 8);
  const [done, running, retrying, returned] = ranges as [ClaimedJob, ClaimedJob, ClaimedJob, ClaimedJob];
  for (const page of [1, 2]) await recordPages(fixture.db, done, [completedPage(page)]);
  await recordPages(fixture.db, running, [completedPage(3)]);
  await fixture.settle(done, COMPLETED);
  await fixture.settle(retrying, FAILED);
  await fixture.settle(returned, { kind: 'returned' });
  expect(await fixture.cancelUpload(upload)).toBe(true);
  expect(await fixture.findUpload(upload)).toMatchObject({
    status: 'cancelled',
    pagesDone: 3,
    pagesTotal: 8,
    password: null,
    error: null,
    finishedAt: expect.any(Date),
  });
  expect(await fixture.statuses(root, ...ranges.map(({ id }) => id))).toEqual([
    'cancelled',
    'completed',
    'cancelled',
    'cancelled',
    'cancelled',
  ]);
  expect(await fixture.attempts(running.id)).toMatchObject([{ status: 'cancelled' }]);
  expect((await fixture.pages(upload)).map(({ page }) => page)).toEqual([1, 2, 3]);
  expect(await fixture.claim()).toEqual([]);
  // A late attempt changes nothing.
  expect(await recordPages(fixture.db, running, [completedPage(4)])).toBe(false);
  expect(await fixture.settle(running, COMPLETED)).toBe(false);
  expect(await fixture.pages(upload)).toHaveLength(3);
});

test('a cancelled upload does not change originals that have ended', async () => {
  const upload = await fixture.upload(3);
  const [completed, failed] = await fixture.claim();
  await fixture.settle(completed as ClaimedJob, COMPLETED);
  await fixture.settle(failed as ClaimedJob, FAILED_PERMANENTLY);
  await fixture.cancelUpload(upload);
  expect((await statusesOf(upload)).toSorted()).toEqual(['cancelled', 'completed', 'failed']);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'cancelled', error: { code: 'corrupt_file' } });
});

test('a cancelled upload fails the dependants of its jobs; no job depends on a child', async () => {
  const { upload, root, ranges } = await splitUpload(fixture);
  const [child] = ranges as [ClaimedJob];
  await fixture.submit({ id: 'after', dependsOn: [root] });
  await expect(fixture.submit({ dependsOn: [child.id] })).rejects.toMatchObject({
    status: 422,
    message: `depends_on: ${child.id} is part of ${root}: depend on that job`,
  });
  await fixture.cancelUpload(upload);
  expect(await fixture.statuses('after')).toEqual(['failed']);
});

test('a cancel of an ended upload is a conflict, and of an unknown one returns false', async () => {
  const upload = await fixture.upload();
  await fixture.finishAll();
  await expect(fixture.cancelUpload(upload)).rejects.toMatchObject({
    ...CONFLICT,
    message: 'the upload has ended already: completed',
  });
  expect(await fixture.cancelUpload(UNKNOWN)).toBe(false);
});

test('a cancelled upload has one outcome when its last jobs end at the same time', async () => {
  const outcomes = new Set<string>();
  for (let round = 0; round < 20; round++) {
    const { upload, ranges } = await splitUpload(fixture, 4);
    const cancels = () =>
      fixture.cancelUpload(upload).then(
        () => 'cancelled',
        ({ code }) => (code === 'conflict' ? 'completed' : code),
      );
    const settles = () => Promise.all(ranges.map((attempt) => fixture.settle(attempt, COMPLETED)));
    const [outcome] = round % 2 ? await Promise.all([cancels(), settles()]) : (await both(settles, cancels)).reverse();
    expect((await fixture.findUpload(upload)).status).toBe(outcome);
    expect(await fixture.findings()).toEqual([]);
    outcomes.add(String(outcome));
  }
  expect(outcomes).toEqual(new Set(['cancelled', 'completed']));
});

test('a cancelled upload gets no child from a concurrent split', async () => {
  for (let round = 0; round < 16; round++) {
    const upload = await fixture.upload(2);
    const attempts = await fixture.claimApart();
    const splits = attempts.map((attempt) =>
      fixture.settle(attempt, { kind: 'split', children: [range([1, 1]), range([2, 2])] }),
    );
    await Promise.all([fixture.cancelUpload(upload), ...splits]);
    expect(new Set(await statusesOf(upload))).toEqual(new Set(['cancelled']));
    expect(await fixture.claim()).toEqual([]);
  }
});

test('a cancel of an upload and a concurrent retry of one of its jobs take place one after the other', async () => {
  for (let round = 0; round < 20; round++) {
    const upload = await fixture.upload(2);
    const [first] = await fixture.claim();
    await fixture.settle(first as ClaimedJob, FAILED_PERMANENTLY);
    const changes = await Promise.allSettled([fixture.cancelUpload(upload), fixture.retry((first as ClaimedJob).id)]);
    const refused = changes.flatMap((change) => (change.status === 'rejected' ? [change.reason] : []));
    for (const reason of refused) expect(reason).toMatchObject(CONFLICT);
    const [cancelled, retried] = changes.map((change) => change.status === 'fulfilled');
    expect(cancelled || retried).toBe(true);
    const expected = {
      'cancel alone': ['cancelled', 'failed'],
      'retry alone': ['ready', 'running'],
      'cancel last': ['cancelled', 'cancelled'],
      'retry last': ['cancelled', 'ready'],
    };
    const order = !retried ? 'cancel alone' : !cancelled ? 'retry alone' : undefined;
    const statuses = (await statusesOf(upload)).toSorted();
    if (order !== undefined) expect(statuses).toEqual(expected[order]);
    else expect([expected['cancel last'], expected['retry last']]).toContainEqual(statuses);
    expect(await fixture.findings()).toEqual([]);
    await fixture.empty();
  }
});

test('one of many concurrent changes of an upload succeeds, and the others fail at once without holding connections', async () => {
  const upload = await fixture.upload(20);
  const cancels = Array.from({ length: 300 }, () => fixture.cancelUpload(upload));
  const results = await Promise.allSettled(cancels);
  const refused = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
  expect(refused).toHaveLength(299);
  for (const reason of refused) expect(reason).toMatchObject(CONFLICT);
});

test('a change of an upload is refused while another is in progress, and a deletion waits for it', async () => {
  const upload = await fixture.upload();
  const held = Promise.withResolvers<void>();
  const holds = Promise.withResolvers<void>();
  const other = fixture.db.transaction(async (tx) => {
    await lockChange(tx, upload);
    held.resolve();
    await holds.promise;
  });
  await held.promise;
  const [job] = await fixture.db.select().from(jobs).where(eq(jobs.uploadId, upload));
  for (const change of [
    () => fixture.cancelUpload(upload),
    () => fixture.retryUpload(upload),
    () => fixture.cancel(job?.id ?? ''),
    () => fixture.retry(job?.id ?? ''),
  ]) {
    await expect(change()).rejects.toMatchObject({ ...CONFLICT, message: expect.stringContaining('in progress') });
  }
  const deletes = fixture.deleteUpload(upload);
  holds.resolve();
  await other;
  expect(await deletes).toBe(true);
});
