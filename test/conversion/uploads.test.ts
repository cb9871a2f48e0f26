import { asc, eq, sql } from 'drizzle-orm';
import { toRanges } from '../../conversion/page-ranges.ts';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import { events, jobs } from '../../db/schema.ts';
import { lockChange } from '../../jobs/change-lock.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Outcome } from '../../jobs/settle.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_FOR_GOOD,
  type JobsFixture,
  openJobsFixture,
  range,
} from '../jobs/fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const CONFLICT = { code: 'conflict', status: 409 };
const UNKNOWN = '01a20a0b-5ccf-7021-8000-000000000000';

const jobsOf = (uploadId: string) =>
  fixture.db.select().from(jobs).where(eq(jobs.uploadId, uploadId)).orderBy(asc(jobs.id));
const statusesOf = async (uploadId: string) => (await jobsOf(uploadId)).map(({ status }) => status);
const failedPage = (page: number) =>
  ({ page, status: 'failed', error: { code: 'corrupt_file', message: 'cannot be read' } }) as const;

/** An upload of one PDF that was split into ranges of two pages each, which all run. */
async function splitUpload(pageCount = 6): Promise<{ upload: string; root: string; ranges: ClaimedJob[] }> {
  const upload = await fixture.upload();
  const root = await fixture.claimOne();
  await recordInspection(fixture.db, root, { pageCount, selected: [[1, pageCount]] });
  const firsts = Array.from({ length: pageCount / 2 }, (_, index) => 2 * index + 1);
  await fixture.settle(root, { kind: 'split', children: firsts.map((page) => range([page, page + 1])) });
  return { upload, root: root.id, ranges: await fixture.claimApart() };
}

/** What is left in the tables of an upload, its jobs among them. */
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

describe('a cancelled upload', () => {
  test('ends with all of its jobs, whatever they are about, and keeps its good pages', async () => {
    const { upload, root, ranges } = await splitUpload(8);
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
    // Late: nothing changes.
    expect(await recordPages(fixture.db, running, [completedPage(4)])).toBe(false);
    expect(await fixture.settle(running, COMPLETED)).toBe(false);
    expect(await fixture.pages(upload)).toHaveLength(3);
  });

  test('leaves those of its originals that have ended as they are', async () => {
    const upload = await fixture.upload(3);
    const [completed, failed] = await fixture.claim();
    await fixture.settle(completed as ClaimedJob, COMPLETED);
    await fixture.settle(failed as ClaimedJob, FAILED_FOR_GOOD);
    await fixture.cancelUpload(upload);
    expect((await statusesOf(upload)).toSorted()).toEqual(['cancelled', 'completed', 'failed']);
    expect(await fixture.findUpload(upload)).toMatchObject({ status: 'cancelled', error: { code: 'corrupt_file' } });
  });

  test('takes with it what waits for its jobs; nothing waits for their children', async () => {
    const { upload, root, ranges } = await splitUpload();
    const [child] = ranges as [ClaimedJob];
    await fixture.submit({ id: 'after', dependsOn: [root] });
    await expect(fixture.submit({ dependsOn: [child.id] })).rejects.toMatchObject({
      status: 422,
      message: `depends_on: ${child.id} is part of ${root}: depend on that job`,
    });
    await fixture.cancelUpload(upload);
    expect(await fixture.statuses('after')).toEqual(['failed']);
  });

  test('is refused once it has ended, and of an upload that nobody knows there is none', async () => {
    const upload = await fixture.upload();
    await fixture.finishAll();
    await expect(fixture.cancelUpload(upload)).rejects.toMatchObject({
      ...CONFLICT,
      message: 'the upload has ended already: completed',
    });
    expect(await fixture.cancelUpload(UNKNOWN)).toBe(false);
  });

  test('has one outcome when its last jobs end at the same time', async () => {
    const outcomes = new Set<string>();
    for (let round = 0; round < 20; round++) {
      const { upload, ranges } = await splitUpload(4);
      const cancels = () =>
        fixture.cancelUpload(upload).then(
          () => 'cancelled',
          ({ code }) => (code === 'conflict' ? 'completed' : code),
        );
      const settles = () => Promise.all(ranges.map((attempt) => fixture.settle(attempt, COMPLETED)));
      const [outcome] =
        round % 2 ? await Promise.all([cancels(), settles()]) : (await both(settles, cancels)).reverse();
      expect((await fixture.findUpload(upload)).status).toBe(outcome);
      expect(await fixture.findings()).toEqual([]);
      outcomes.add(String(outcome));
    }
    expect(outcomes).toEqual(new Set(['cancelled', 'completed']));
  });

  test('has no child that is born meanwhile', async () => {
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

  test('and the retry of one of its jobs follow each other', async () => {
    for (let round = 0; round < 20; round++) {
      const upload = await fixture.upload(2);
      const [first] = await fixture.claim();
      await fixture.settle(first as ClaimedJob, FAILED_FOR_GOOD);
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
});

test('many changes of one upload at once are refused but one, and leave connections for others', async () => {
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

describe('an upload that is retried', () => {
  /** Does what is claimed: every page that it is to make, but those that its original has already. */
  async function work(claimed: ClaimedJob[]): Promise<void> {
    for (const attempt of claimed) {
      const { pages } = attempt.payload as { pages: [number, number][] };
      for (const [from, to] of pages) {
        for (let page = from; page <= to; page++) await recordPages(fixture.db, attempt, [completedPage(page)]);
      }
      await fixture.settle(attempt, COMPLETED);
    }
  }

  test('does again what failed, with its job or alone, and nothing else', async () => {
    const { upload, root, ranges } = await splitUpload(8);
    const [good, flawed, bad, half] = ranges as [ClaimedJob, ClaimedJob, ClaimedJob, ClaimedJob];
    await work([good]);
    for (const outcome of [completedPage(3), failedPage(4)]) await recordPages(fixture.db, flawed, [outcome]);
    await fixture.settle(flawed, COMPLETED);
    await fixture.settle(bad, FAILED_FOR_GOOD);
    await recordPages(fixture.db, half, [completedPage(7)]);
    await fixture.settle(half, FAILED_FOR_GOOD);
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

  test('makes the failed pages of a file that was converted in one go, again and again', async () => {
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

  test('goes on where it was cancelled', async () => {
    const { upload, ranges } = await splitUpload();
    await work(ranges.slice(0, 1));
    await fixture.cancelUpload(upload);
    await fixture.retryUpload(upload);
    const again = await fixture.claim();
    expect(again.map(({ id }) => id)).toEqual(ranges.slice(1).map(({ id }) => id));
    await work(again);
    expect(await fixture.findUpload(upload)).toMatchObject({ status: 'completed', pagesDone: 6 });
  });

  test('runs only those of its originals again that have not completed', async () => {
    const upload = await fixture.upload(3);
    const [completed, failed, cancelled] = (await fixture.claim()) as [ClaimedJob, ClaimedJob, ClaimedJob];
    await fixture.settle(completed, COMPLETED);
    await fixture.settle(failed, FAILED_FOR_GOOD);
    await fixture.cancel(cancelled.id);
    await fixture.retryUpload(upload);
    expect(await fixture.statuses(completed.id, failed.id, cancelled.id)).toEqual(['completed', 'ready', 'ready']);
    await fixture.finishAll();
    expect(await fixture.findUpload(upload)).toMatchObject({ status: 'completed', error: null });
  });

  test('must have failed, or been cancelled, and be there', async () => {
    const upload = await fixture.upload();
    await expect(fixture.retryUpload(upload)).rejects.toMatchObject(CONFLICT);
    const attempt = await fixture.claimOne();
    await expect(fixture.retryUpload(upload)).rejects.toMatchObject(CONFLICT);
    await fixture.settle(attempt, COMPLETED);
    await expect(fixture.retryUpload(upload)).rejects.toMatchObject({
      ...CONFLICT,
      message: 'the upload is completed: only what failed or was cancelled can be retried',
    });
    expect(await fixture.retryUpload(UNKNOWN)).toBe(false);
  });

  test('twice at the same time runs once', async () => {
    for (let round = 0; round < 20; round++) {
      const upload = await fixture.upload();
      await fixture.finishAll(FAILED_FOR_GOOD);
      const results = await Promise.allSettled([fixture.retryUpload(upload), fixture.retryUpload(upload)]);
      expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
      expect(await fixture.finishAll()).toHaveLength(1);
    }
  });
});

describe('a deleted upload', () => {
  test('leaves no row, whatever it was about, and one event; late attempts change nothing', async () => {
    const { upload, root, ranges } = await splitUpload(8);
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
    const told = await fixture.db.select().from(events).where(eq(events.uploadId, upload));
    expect(told).toMatchObject([{ kind: 'upload', status: 'deleted' }]);
    expect(await fixture.deleteUpload(upload)).toBe(false);
  });

  test('is deleted once by two, and not at all when nobody knows it', async () => {
    expect(await fixture.deleteUpload(UNKNOWN)).toBe(false);
    for (let round = 0; round < 20; round++) {
      const upload = await fixture.upload(2);
      if (round % 2) await fixture.claim();
      const results = await Promise.all([fixture.deleteUpload(upload), fixture.deleteUpload(upload)]);
      expect(results.toSorted()).toEqual([false, true]);
    }
  });

  test.each([
    ['a claim', (): Promise<unknown> => fixture.claim()],
    ['a cancel', (upload: string): Promise<unknown> => fixture.cancelUpload(upload).catch(() => undefined)],
  ])('is gone after %s at the same time', async (_name, work) => {
    for (let round = 0; round < 16; round++) {
      const upload = await fixture.upload(2);
      const deletes = () => fixture.deleteUpload(upload);
      await (round % 2 ? both(deletes, () => work(upload)) : both(() => work(upload), deletes));
      expect(await rowsOf(upload)).toEqual(NO_ROWS);
    }
  });

  test('is gone after its jobs were split, ended or recorded pages at the same time', async () => {
    for (let round = 0; round < 16; round++) {
      const { upload, ranges } = await splitUpload();
      const [splits, ends, works] = ranges as [ClaimedJob, ClaimedJob, ClaimedJob];
      await Promise.all([
        fixture.settle(splits, { kind: 'split', children: [range([1, 1]), range([2, 2])] }),
        fixture.deleteUpload(upload),
        fixture.settle(ends, round % 2 ? FAILED_FOR_GOOD : FAILED),
        recordPages(fixture.db, works, [completedPage(5)]),
      ]);
      expect(await rowsOf(upload)).toEqual(NO_ROWS);
    }
  });

  test('is gone after a retry at the same time', async () => {
    for (let round = 0; round < 12; round++) {
      const upload = await fixture.upload(2);
      await fixture.finishAll(FAILED_FOR_GOOD);
      const retries = () => fixture.retryUpload(upload).catch(() => undefined);
      const deletes = () => fixture.deleteUpload(upload);
      await (round % 2 ? both(retries, deletes) : both(deletes, retries));
      expect(await rowsOf(upload)).toEqual(NO_ROWS);
    }
  });
});

/** Both at the same time, the first one first. */
function both<T, U>(first: () => Promise<T>, second: () => Promise<U>): Promise<(T | U)[]> {
  return Promise.all([first(), second()]);
}
