import { sql } from 'drizzle-orm';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_PERMANENTLY,
  type JobsFixture,
  openJobsFixture,
  range,
} from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const CONFLICT = { code: 'conflict', status: 409 };
const job = (id: string, ...dependsOn: string[]) => ({ id, dependsOn });

/** Submits jobs, and fails the ready ones. */
async function failed(...wanted: Parameters<JobsFixture['submit']>): Promise<string[]> {
  const ids = await fixture.submit(...wanted);
  await fixture.finishAll(FAILED_PERMANENTLY);
  return ids;
}

test('a retried job gets all its attempts again, and continues their count', async () => {
  await fixture.submit({ id: 'a', maxAttempts: 2 });
  for (let attempt = 1; attempt <= 2; attempt++) {
    await fixture.settle(await fixture.claimOne(), FAILED);
    await fixture.passBackoff();
  }
  expect(await fixture.job('a')).toMatchObject({ status: 'failed', failures: 2 });
  expect(await fixture.retry('a')).toMatchObject({
    status: 'ready',
    attempt: 2,
    failures: 0,
    error: null,
    finishedAt: null,
    queueId: expect.any(String),
  });
  await fixture.settle(await fixture.claimOne(), FAILED);
  expect(await fixture.job('a')).toMatchObject({ status: 'retrying', attempt: 3, failures: 1 });
  await fixture.passBackoff();
  await fixture.finishAll();
  expect((await fixture.attempts('a')).map(({ attempt, status }) => [attempt, status])).toEqual([
    [1, 'failed'],
    [2, 'failed'],
    [3, 'failed'],
    [4, 'completed'],
  ]);
});

test('a cancelled job runs again', async () => {
  await fixture.submit({ id: 'a' });
  const late = await fixture.claimOne();
  await fixture.cancel('a');
  expect(await fixture.retry('a')).toMatchObject({ status: 'ready', attempt: 1 });
  expect(await fixture.settle(late, COMPLETED)).toBe(false);
  expect(await fixture.finishAll()).toEqual(['a']);
  expect((await fixture.attempts('a')).map(({ status }) => status)).toEqual(['cancelled', 'completed']);
});

test('a cancelled job with a future run_at is scheduled again', async () => {
  const runAt = new Date(Date.now() + 3_600_000);
  await fixture.submit({ id: 'a', runAt });
  await fixture.cancel('a');
  expect(await fixture.retry('a')).toMatchObject({ status: 'scheduled', dueAt: runAt, queueId: null });
});

test('a job that has not ended, or has completed, is not retried', async () => {
  await fixture.submit({ id: 'completed' });
  await fixture.finishAll();
  await fixture.submit({ id: 'running' });
  const { running } = Object.fromEntries((await fixture.claim()).map((attempt) => [attempt.id, attempt]));
  await fixture.submit({ id: 'ready' }, job('blocked', 'ready'));
  for (const id of ['completed', 'running', 'ready', 'blocked']) {
    const before = await fixture.job(id);
    await expect(fixture.retry(id)).rejects.toMatchObject({
      ...CONFLICT,
      message: expect.stringContaining(`${id} is ${id}`),
    });
    expect(await fixture.job(id)).toEqual(before);
  }
  expect(await fixture.settle(running as ClaimedJob, COMPLETED)).toBe(true);
});

test('an unknown job cannot be retried', async () => {
  expect(await fixture.retry('unknown')).toBeUndefined();
});

test('two concurrent retries run the job once', async () => {
  for (let round = 0; round < 20; round++) {
    const [id = ''] = await failed({}, {});
    const results = await Promise.allSettled([fixture.retry(id), fixture.retry(id)]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(results.find(({ status }) => status === 'rejected')).toMatchObject({ reason: CONFLICT });
    expect(await fixture.finishAll()).toEqual([id]);
  }
});

describe('a job that failed with its prerequisite', () => {
  test('waits again when the prerequisite is retried, along a chain', async () => {
    await failed({ id: 'a' }, job('b', 'a'), job('c', 'b'));
    await fixture.retry('a');
    expect(await fixture.statuses('a', 'b', 'c')).toEqual(['ready', 'blocked', 'blocked']);
    expect(await fixture.job('c')).toMatchObject({ pendingDependencies: 1, error: null, finishedAt: null });
    expect(await fixture.finishAll()).toEqual(['a', 'b', 'c']);
  });

  test('waits again for both sides of a diamond', async () => {
    await failed({ id: 'a' }, job('b', 'a'), job('c', 'a'), job('d', 'b', 'c'));
    await fixture.retry('a');
    expect(await fixture.statuses('a', 'b', 'c', 'd')).toEqual(['ready', 'blocked', 'blocked', 'blocked']);
    expect((await fixture.job('d')).pendingDependencies).toBe(2);
    expect((await fixture.finishAll()).at(-1)).toBe('d');
  });

  test('stays failed, with its dependants, while another prerequisite has failed', async () => {
    await failed({ id: 'a' }, { id: 'x' }, job('b', 'a', 'x'), job('c', 'b'));
    await fixture.retry('a');
    expect(await fixture.statuses('a', 'x', 'b', 'c')).toEqual(['ready', 'failed', 'failed', 'failed']);
    await fixture.finishAll();
    await fixture.retry('x');
    expect(await fixture.job('b')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
    expect(await fixture.finishAll()).toEqual(['x', 'b', 'c']);
  });

  test('stays as it is if it was cancelled or failed alone', async () => {
    await fixture.submit({ id: 'a' }, job('b', 'a'), job('c', 'a'));
    await fixture.settle(await fixture.claimOne(), COMPLETED);
    const [b] = (await fixture.claim()).filter(({ id }) => id === 'b');
    await fixture.settle(b as ClaimedJob, FAILED_PERMANENTLY);
    await fixture.submit({ id: 'x' }, job('y', 'x'));
    await fixture.cancel('y');
    await fixture.cancel('x');
    await fixture.retry('x');
    expect(await fixture.statuses('b', 'y')).toEqual(['failed', 'cancelled']);
  });

  test('cannot be retried before the prerequisite', async () => {
    await failed({ id: 'a' }, job('b', 'a'));
    await expect(fixture.retry('b')).rejects.toMatchObject({
      ...CONFLICT,
      message: expect.stringContaining('prerequisite a'),
    });
    expect(await fixture.statuses('a', 'b')).toEqual(['failed', 'failed']);
  });

  test('may be retried once its prerequisite runs', async () => {
    await fixture.submit({ id: 'a' }, job('b', 'a'));
    await fixture.cancel('b');
    expect(await fixture.retry('b')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
    expect(await fixture.finishAll()).toEqual(['a', 'b']);
  });

  test('is never left blocked by a prerequisite that ends at the same time', async () => {
    for (let round = 0; round < 60; round++) {
      const [a, b] = [`a${round}`, `b${round}`];
      await fixture.submit({ id: a }, job(b, a));
      await fixture.cancel(b);
      const attempt = await fixture.claimOne();
      const outcome = round % 4 < 2 ? COMPLETED : FAILED_PERMANENTLY;
      const retries = () => fixture.retry(b).catch(() => undefined);
      const settles = () => fixture.settle(attempt, outcome);
      await Promise.all(round % 2 ? [retries(), settles()] : [settles(), retries()]);
      expect(await fixture.findings()).toEqual([]);
      const { status } = await fixture.job(b);
      if (outcome === COMPLETED) expect(status).toBe('ready');
      else expect(['failed', 'cancelled']).toContain(status);
      if (status === 'ready') await fixture.cancel(b);
    }
  });
});

test('a retry of a split job runs only its failed children again, and the job completes with them', async () => {
  const upload = await fixture.upload();
  const parent = await fixture.claimOne();
  await recordInspection(fixture.db, parent, { pageCount: 6, selected: [[1, 6]] });
  await fixture.settle(parent, { kind: 'split', children: [range([1, 2]), range([3, 4]), range([5, 6])] });
  const [good, bad, worse] = (await fixture.claim()) as [ClaimedJob, ClaimedJob, ClaimedJob];
  for (const page of [1, 2]) await recordPages(fixture.db, good, [completedPage(page)]);
  await recordPages(fixture.db, bad, [completedPage(3)]);
  await fixture.settle(good, COMPLETED);
  for (const attempt of [bad, worse]) await fixture.settle(attempt, FAILED_PERMANENTLY);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'failed', pagesDone: 3 });
  expect(await fixture.pages(upload)).toHaveLength(6);

  await expect(fixture.retry(bad.id)).rejects.toMatchObject(CONFLICT);
  expect(await fixture.retry(parent.id)).toMatchObject({
    status: 'running',
    pendingChildren: 2,
    queueId: null,
    error: null,
  });
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'processing', error: null, finishedAt: null });
  expect((await fixture.pages(upload)).map(({ page }) => page)).toEqual([1, 2, 3]);
  const again = await fixture.claim();
  expect(again.map(({ id, attempt }) => [id, attempt])).toEqual([
    [bad.id, 2],
    [worse.id, 2],
  ]);
  for (const page of [4, 5, 6])
    await recordPages(fixture.db, again[page > 4 ? 1 : 0] as ClaimedJob, [completedPage(page)]);
  for (const attempt of again) await fixture.settle(attempt, COMPLETED);
  expect(await fixture.job(parent.id)).toMatchObject({ status: 'completed', error: null, attempt: 1 });
  expect(await fixture.findUpload(upload)).toMatchObject({
    status: 'completed',
    pagesDone: 6,
    pagesTotal: 6,
    error: null,
  });
});

test('an upload with another failed original fails again when the retried one has ended', async () => {
  const upload = await fixture.upload(2);
  const [first] = await fixture.claim();
  await fixture.settle(first as ClaimedJob, FAILED_PERMANENTLY);
  const second = (await fixture.db.execute<{ id: string }>(sql`select id from jobs where status = 'running'`)).rows[0]
    ?.id;
  await fixture.cancel(second as string);
  await fixture.retry(second as string);
  expect((await fixture.findUpload(upload)).status).toBe('processing');
  await fixture.finishAll();
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'failed', error: { code: 'corrupt_file' } });
});
