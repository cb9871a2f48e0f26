import { sql } from 'drizzle-orm';
import { jobs } from '../../db/schema.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import type { Outcome } from '../../jobs/settle.ts';
import { submitJobs } from '../../jobs/submit.ts';
import { COMPLETED, FAILED, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture, range, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

type Attempt = Awaited<ReturnType<JobsFixture['claimOne']>>;

const RETURNED: Outcome = { kind: 'returned' };

function end(attempt: Attempt, outcome: Outcome, peakMemoryMb: number | null = null): Promise<boolean> {
  return fixture.settle(attempt, outcome, peakMemoryMb);
}

async function intact(): Promise<void> {
  expect(await fixture.findings()).toEqual([]);
}

/** Seconds from now until a job is due. */
async function secondsUntilDue(id: string): Promise<number> {
  const { rows } = await fixture.db.execute(
    sql`select extract(epoch from due_at - now())::float as seconds from jobs where id = ${id}`,
  );
  return rows[0]?.seconds as number;
}

test('each job has one pg-boss job while it is ready, and none otherwise', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 3 });
  expect(await fixture.job(id)).toMatchObject({ status: 'ready', attempt: 0, queueId: expect.any(String) });
  await intact();
  const first = await fixture.claimOne();
  await intact();
  await end(first, FAILED);
  expect(await fixture.job(id)).toMatchObject({ status: 'retrying', queueId: null, converterId: null });
  await intact();
  await fixture.passBackoff();
  expect(await fixture.job(id)).toMatchObject({ status: 'ready', dueAt: null });
  await intact();
  const second = await fixture.claimOne();
  expect([first.queueId, second.queueId]).toEqual([null, null]);
  await intact();
  await end(second, RETURNED);
  expect(await fixture.job(id)).toMatchObject({ status: 'ready', queueId: expect.any(String) });
  await intact();
  const third = await fixture.claimOne();
  await end(third, { kind: 'split', children: [range([1, 2]), range([3, 4])] });
  expect(await fixture.job(id)).toMatchObject({
    status: 'running',
    queueId: null,
    converterId: null,
    pendingChildren: 2,
  });
  await intact();
  for (const child of await fixture.claim()) {
    await end(child, COMPLETED);
    await intact();
  }
  expect(await fixture.job(id)).toMatchObject({
    status: 'completed',
    pendingChildren: 0,
    finishedAt: expect.any(Date),
  });
  const { rows } = await fixture.db.execute(sql`select count(*)::int as count from pgboss.job`);
  expect(rows).toEqual([{ count: 0 }]);
});

test('jobs of a transaction that is rolled back leave nothing in the queue', async () => {
  const aborted = fixture.db.transaction(async (tx) => {
    const job = {
      type: 'test',
      priority: 'normal' as const,
      payload: {},
      shape: SMALL,
      uploadId: null,
      original: null,
    };
    await submitJobs(tx, fixture.queues, [job, job]);
    throw new Error('changed its mind');
  });
  await expect(aborted).rejects.toThrow('changed its mind');
  expect(await fixture.db.select().from(jobs)).toEqual([]);
});

test('a completed attempt keeps its result and its peak memory', async () => {
  await fixture.submit({});
  const job = await fixture.claimOne();
  expect(await end(job, { kind: 'completed', result: { pages: 3 } }, 131)).toBe(true);
  expect(await fixture.job(job.id)).toMatchObject({ status: 'completed', result: { pages: 3 }, error: null });
  expect(await fixture.attempts(job.id)).toMatchObject([{ status: 'completed', peakMemoryMb: 131, error: null }]);
});

test('a job that fails is retried until its attempts are spent, and keeps the last error', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 3 });
  for (const attempt of [1, 2, 3]) {
    const job = await fixture.claimOne();
    expect(job.attempt).toBe(attempt);
    await end(job, { kind: 'failed', error: { code: 'task_failed', message: `time ${attempt}` }, retryable: true });
    expect((await fixture.job(id)).status).toBe(attempt < 3 ? 'retrying' : 'failed');
    await fixture.passBackoff();
  }
  expect(await fixture.job(id)).toMatchObject({ error: { code: 'task_failed', message: 'time 3' } });
  const attempts = await fixture.attempts(id);
  expect(attempts.map(({ status, error }) => [status, error?.message])).toEqual([
    ['failed', 'time 1'],
    ['failed', 'time 2'],
    ['failed', 'time 3'],
  ]);
  expect(await fixture.claim()).toEqual([]);
});

test('an error that is not retryable fails the job', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 3 });
  await end(await fixture.claimOne(), FAILED_PERMANENTLY);
  expect(await fixture.job(id)).toMatchObject({ status: 'failed', attempt: 1, error: { code: 'corrupt_file' } });
});

test('a job that completes after a failure has no error left', async () => {
  const [id = ''] = await fixture.submit({});
  await end(await fixture.claimOne(), FAILED);
  await fixture.passBackoff();
  await end(await fixture.claimOne(), COMPLETED);
  expect(await fixture.job(id)).toMatchObject({ status: 'completed', error: null });
});

test('a retry waits for its backoff', async () => {
  const [id = ''] = await fixture.submit({ initialDelaySeconds: 60 });
  await end(await fixture.claimOne(), FAILED);
  const seconds = await secondsUntilDue(id);
  expect(seconds).toBeGreaterThan(25);
  expect(seconds).toBeLessThanOrEqual(60);
});

test('a returned job is ready at once, without a failure', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 1 });
  await end(await fixture.claimOne(), RETURNED);
  expect(await fixture.job(id)).toMatchObject({ status: 'ready', failures: 0 });
  await end(await fixture.claimOne(), RETURNED);
  await end(await fixture.claimOne(), COMPLETED);
  expect(await fixture.job(id)).toMatchObject({ status: 'completed' });
  expect((await fixture.attempts(id)).map(({ status }) => status)).toEqual(['returned', 'returned', 'completed']);
});

test('a late attempt changes nothing in any status of its job', async () => {
  const [id = ''] = await fixture.submit({});
  const late = await fixture.claimOne();
  await end(late, { kind: 'failed', error: { code: 'converter_lost', message: 'gone' }, retryable: true });

  const outcomes: Outcome[] = [
    COMPLETED,
    FAILED,
    FAILED_PERMANENTLY,
    RETURNED,
    { kind: 'split', children: [range([1, 1])] },
  ];
  async function expectNoEffect() {
    const before = [await fixture.job(id), await fixture.attempts(id)];
    for (const outcome of outcomes) expect(await end(late, outcome)).toBe(false);
    expect([await fixture.job(id), await fixture.attempts(id)]).toEqual(before);
    expect(await fixture.db.$count(jobs)).toBe(1);
    await intact();
  }
  await expectNoEffect(); // while it waits
  await fixture.passBackoff();
  await expectNoEffect(); // while it is ready
  const second = await fixture.claimOne();
  await expectNoEffect(); // while another attempt runs
  expect(await end(second, COMPLETED)).toBe(true);
  await expectNoEffect(); // after its end
});

test('concurrent settlements settle an attempt once', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 5 });
  const job = await fixture.claimOne();
  const results = await Promise.all(Array.from({ length: 8 }, (_, index) => end(job, index % 2 ? FAILED : COMPLETED)));
  expect(results.filter(Boolean)).toHaveLength(1);
  expect(await fixture.attempts(id)).toHaveLength(1);
});

test('the children of a split job inherit its fields, in the order of their parts', async () => {
  const uploadId = await fixture.upload(1, { priority: 'high' });
  const parent = await fixture.claimOne();
  const big = { cpuUnits: 1, memoryMb: 1024 };
  await end(parent, { kind: 'split', children: [range([1, 5]), { ...range([6, 9]), shape: big }] });
  const children = await fixture.claim();
  expect(children).toMatchObject([
    {
      type: 'convert_range',
      parentId: parent.id,
      uploadId,
      original: 1,
      priority: 'high',
      payload: { pages: [[1, 5]] },
    },
    { parentId: parent.id, uploadId, original: 1, priority: 'high', payload: { pages: [[6, 9]] }, ...big },
  ]);
});

test('a parent ends with its last child', async () => {
  await fixture.submit({});
  const parent = await fixture.claimOne();
  await end(parent, { kind: 'split', children: [range([1, 1]), range([2, 2]), range([3, 3])] });
  const [first, second, third] = (await fixture.claim()) as [Attempt, Attempt, Attempt];
  await end(second, COMPLETED);
  await end(first, FAILED); // will be retried: it has not ended
  expect(await fixture.job(parent.id)).toMatchObject({ status: 'running', pendingChildren: 2 });
  await end(third, COMPLETED);
  expect(await fixture.job(parent.id)).toMatchObject({ status: 'running', pendingChildren: 1 });
  await fixture.passBackoff();
  await end(await fixture.claimOne(), COMPLETED);
  expect(await fixture.job(parent.id)).toMatchObject({ status: 'completed', error: null });
});

test('a parent fails with its failed child, and not before the others have ended', async () => {
  await fixture.submit({});
  const parent = await fixture.claimOne();
  await end(parent, { kind: 'split', children: [range([1, 1]), range([2, 2])] });
  const [first, second] = (await fixture.claim()) as [Attempt, Attempt];
  await end(first, FAILED_PERMANENTLY);
  expect((await fixture.job(parent.id)).status).toBe('running');
  await end(second, COMPLETED);
  expect(await fixture.job(parent.id)).toMatchObject({ status: 'failed', error: { code: 'corrupt_file' } });
});

test('a snoozed job is scheduled again, without a failure', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 1 });
  for (const attempt of [1, 2]) {
    await end(await fixture.claimOne(), { kind: 'snoozed', seconds: 60 });
    expect(await fixture.job(id)).toMatchObject({ status: 'scheduled', attempt, failures: 0, converterId: null });
    expect(await secondsUntilDue(id)).toBeGreaterThan(50);
    await intact();
    await fixture.db.update(jobs).set({ dueAt: sql`now()` });
    await sendDueJobs(fixture.db, fixture.queues);
  }
  await end(await fixture.claimOne(), COMPLETED);
  expect((await fixture.attempts(id)).map(({ status }) => status)).toEqual(['snoozed', 'snoozed', 'completed']);
});

test('a retry waits for retryAfterSeconds instead of its backoff', async () => {
  const [id = ''] = await fixture.submit({ initialDelaySeconds: 3_600 });
  await end(await fixture.claimOne(), { ...FAILED, retryAfterSeconds: 90 });
  expect(await fixture.job(id)).toMatchObject({ status: 'retrying', failures: 1 });
  const due = await secondsUntilDue(id);
  expect(due).toBeGreaterThan(60);
  expect(due).toBeLessThanOrEqual(90);
});
