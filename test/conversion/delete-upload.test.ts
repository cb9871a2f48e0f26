import { eq, sql } from 'drizzle-orm';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import { events } from '../../db/schema.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Outcome } from '../../jobs/settle.ts';
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

const UNKNOWN = '01a20a0b-5ccf-7021-8000-000000000000';

/** The numbers of remaining rows of an upload. */
async function rowsOf(uploadId: string) {
  const { rows } = await fixture.db.execute(sql`select
    (select count(*)::int from uploads where id = ${uploadId}) as uploads,
    (select count(*)::int from originals where upload_id = ${uploadId}) as originals,
    (select count(*)::int from pages where upload_id = ${uploadId}) as pages,
    (select count(*)::int from jobs where upload_id = ${uploadId}) as jobs,
    (select count(*)::int from job_attempts where job_id not in (select id from jobs)) as attempts,
    (select count(*)::int from pgboss.job where name like 'jobs.%') as queued`);
  return rows[0];
}
const NO_ROWS = { uploads: 0, originals: 0, pages: 0, jobs: 0, attempts: 0, queued: 0 };

test('a deleted upload leaves one event and no row, and late attempts change nothing', async () => {
  const { upload, root, ranges } = await splitUpload(fixture, 8);
  const [done, running, retrying, returned] = ranges as [ClaimedJob, ClaimedJob, ClaimedJob, ClaimedJob];
  await recordPages(fixture.db, done, [completedPage(1)]);
  await fixture.settle(done, COMPLETED);
  await fixture.settle(retrying, FAILED);
  await fixture.settle(returned, { kind: 'returned' });
  await fixture.submit({ id: 'after', dependsOn: [root] });
  expect(await fixture.deleteUpload(upload)).toBe(true);
  expect(await rowsOf(upload)).toEqual(NO_ROWS);
  expect(await fixture.job('after')).toMatchObject({ status: 'failed', error: { code: 'dependency_failed' } });
  const outcomes: Outcome[] = [COMPLETED, FAILED, { kind: 'split', children: [range([1, 1])] }];
  for (const outcome of outcomes) expect(await fixture.settle(running, outcome)).toBe(false);
  expect(await recordPages(fixture.db, running, [completedPage(3)])).toBe(false);
  expect(await recordInspection(fixture.db, running, { pageCount: 1, selected: [] })).toBe(false);
  expect(await rowsOf(upload)).toEqual(NO_ROWS);
  const found = await fixture.db.select().from(events).where(eq(events.uploadId, upload));
  expect(found).toMatchObject([{ kind: 'upload', status: 'deleted' }]);
  expect(await fixture.deleteUpload(upload)).toBe(false);
});

test('concurrent deletions delete an upload once, and an unknown one never', async () => {
  expect(await fixture.deleteUpload(UNKNOWN)).toBe(false);
  for (let round = 0; round < 20; round++) {
    const upload = await fixture.upload(2);
    if (round % 2) await fixture.claim();
    const results = await Promise.all([fixture.deleteUpload(upload), fixture.deleteUpload(upload)]);
    expect(results.toSorted()).toEqual([false, true]);
  }
});

test.each([
  ['claim', (): Promise<unknown> => fixture.claim()],
  ['cancel', (upload: string): Promise<unknown> => fixture.cancelUpload(upload).catch(() => undefined)],
])('a deleted upload is gone after a concurrent %s', async (_name, work) => {
  for (let round = 0; round < 16; round++) {
    const upload = await fixture.upload(2);
    const deletes = () => fixture.deleteUpload(upload);
    await (round % 2 ? both(deletes, () => work(upload)) : both(() => work(upload), deletes));
    expect(await rowsOf(upload)).toEqual(NO_ROWS);
  }
});

test('a deleted upload is gone after concurrent splits, ends and pages of its jobs', async () => {
  for (let round = 0; round < 16; round++) {
    const { upload, ranges } = await splitUpload(fixture);
    const [splits, ends, works] = ranges as [ClaimedJob, ClaimedJob, ClaimedJob];
    await Promise.all([
      fixture.settle(splits, { kind: 'split', children: [range([1, 1]), range([2, 2])] }),
      fixture.deleteUpload(upload),
      fixture.settle(ends, round % 2 ? FAILED_PERMANENTLY : FAILED),
      recordPages(fixture.db, works, [completedPage(5)]),
    ]);
    expect(await rowsOf(upload)).toEqual(NO_ROWS);
  }
});

test('a deleted upload is gone after a concurrent retry', async () => {
  for (let round = 0; round < 12; round++) {
    const upload = await fixture.upload(2);
    await fixture.finishAll(FAILED_PERMANENTLY);
    const retries = () => fixture.retryUpload(upload).catch(() => undefined);
    const deletes = () => fixture.deleteUpload(upload);
    await (round % 2 ? both(retries, deletes) : both(deletes, retries));
    expect(await rowsOf(upload)).toEqual(NO_ROWS);
  }
});
