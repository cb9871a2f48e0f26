import { asc, eq, sql } from 'drizzle-orm';
import { jobs, uploads, webhooks } from '../../db/schema.ts';
import { settleWebhook } from '../../jobs/webhooks.ts';
import { COMPLETED, FAILED_FOR_GOOD, type JobsFixture, openJobsFixture, range } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const URL = 'http://receiver.example/hook';
const told = (id: string, ...dependsOn: string[]) => ({ id, dependsOn, notifyUrl: URL });

/** Of whom, and what, the webhooks tell, oldest first. */
async function made(): Promise<string[]> {
  const rows = await fixture.db.select().from(webhooks).orderBy(asc(webhooks.createdAt), asc(webhooks.jobId));
  for (const row of rows) expect(row).toMatchObject({ url: URL, status: 'pending', finishedAt: null });
  return rows.map(({ jobId, uploadId, type }) => `${jobId ?? uploadId} ${type}`);
}

async function queued(): Promise<number> {
  const { rows } = await fixture.db.execute<{ count: number }>(
    sql`select count(*)::int from pgboss.job where name = 'webhooks' and state < 'completed'`,
  );
  return rows[0]?.count as number;
}

test('a job is told of once for each of its ends, and only to those who asked', async () => {
  await fixture.submit(told('a'), { id: 'silent' });
  await fixture.finishAll(FAILED_FOR_GOOD);
  expect(await made()).toEqual(['a job.failed']);
  await fixture.retry('a');
  await fixture.cancel('a');
  await fixture.retry('a');
  const attempt = await fixture.claimOne();
  await fixture.settle(attempt, COMPLETED);
  // Too late: another has settled it.
  await fixture.settle(attempt, COMPLETED);
  expect(await made()).toEqual(['a job.failed', 'a job.cancelled', 'a job.completed']);
  expect(await queued()).toBe(3);
});

test('a retry that is left, or a converter that stops, is no end', async () => {
  await fixture.submit({ ...told('a'), maxAttempts: 2 });
  const error = { code: 'task_failed' as const, message: 'once' };
  await fixture.settle(await fixture.claimOne(), { kind: 'failed', error, retryable: true });
  await fixture.passBackoff();
  await fixture.settle(await fixture.claimOne(), { kind: 'returned' });
  expect(await made()).toEqual([]);
  await fixture.settle(await fixture.claimOne(), { kind: 'failed', error, retryable: true });
  expect(await made()).toEqual(['a job.failed']);
});

test('what fails with its prerequisite is told of, however far behind it and whenever it came', async () => {
  await fixture.submit(told('a'), told('b', 'a'), told('c', 'b'), { id: 'd', dependsOn: ['c'] });
  await fixture.cancel('a');
  expect((await made()).toSorted()).toEqual(['a job.cancelled', 'b job.failed', 'c job.failed']);
  await fixture.submit(told('late', 'c'));
  expect((await made()).at(-1)).toBe('late job.failed');
});

test('an upload is told of once its last job ends, and its jobs are not; again when it was retried', async () => {
  const id = await fixture.upload(2);
  await fixture.db.update(uploads).set({ notifyUrl: URL }).where(eq(uploads.id, id));
  const [first, second] = await fixture.claim();
  await fixture.settle(first as never, { kind: 'split', children: [range([1, 1]), range([2, 2])] });
  await fixture.settle(second as never, FAILED_FOR_GOOD);
  expect(await made()).toEqual([]);
  await fixture.finishAll();
  expect(await made()).toEqual([`${id} upload.failed`]);
  await fixture.retry(second?.id as string);
  await fixture.finishAll();
  expect(await made()).toEqual([`${id} upload.failed`, `${id} upload.completed`]);
});

test('when an end is not committed, nobody is told', async () => {
  await fixture.submit(told('a'));
  const [job] = await fixture.claim();
  await fixture.db.execute(
    sql`create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$`,
  );
  await fixture.db.execute(
    sql`create constraint trigger refuse after update on jobs deferrable initially deferred for each row execute function refuse()`,
  );
  await expect(fixture.settle(job as never, COMPLETED)).rejects.toThrow();
  await fixture.db.execute(sql`drop trigger refuse on jobs`);
  expect([await made(), await queued()]).toEqual([[], 0]);
  await fixture.settle(job as never, COMPLETED);
  expect([await made(), await queued()]).toEqual([['a job.completed'], 1]);
});

describe('a webhook that was taken', () => {
  const tried = { startedAt: new Date(), durationMs: 1, statusCode: null, error: 'no answer', final: false };
  const take = () => fixture.queues.takeWebhooks(10, 4);
  async function statusOf(id: string): Promise<string | undefined> {
    const [row] = await fixture.db.select({ status: webhooks.status }).from(webhooks).where(eq(webhooks.id, id));
    return row?.status;
  }
  /** As if the wait for the next try were over. */
  const passWait = () => fixture.db.execute(sql`update pgboss.job set start_after = now() where name = 'webhooks'`);

  test('and not delivered is tried thirteen times in a day, after what is new, and then given up', async () => {
    await fixture.submit(told('a'));
    await fixture.finishAll();
    let waited = 0;
    for (let attempt = 1; attempt <= 13; attempt++) {
      const [id = '', ...others] = await take();
      expect([attempt, others]).toEqual([attempt, []]);
      expect(await statusOf(id)).toBe('pending');
      await settleWebhook(fixture.db, fixture.queues, id, tried);
      const { rows } = await fixture.db.execute<{ wait: number }>(
        sql`select extract(epoch from start_after - created_on)::int as wait from pgboss.job where name = 'webhooks'`,
      );
      waited += rows[0]?.wait ?? 0;
      expect(await take()).toEqual([]);
      await passWait();
      expect(await statusOf(id)).toBe(attempt < 13 ? 'pending' : 'failed');
    }
    expect(waited / 3600).toBeCloseTo(24, 0);
    expect(await queued()).toBe(0);
  });

  test('again waits for those that were tried less often', async () => {
    await fixture.submit(told('a'));
    await fixture.finishAll();
    const [old = ''] = await take();
    await settleWebhook(fixture.db, fixture.queues, old, tried);
    await fixture.submit(told('b'));
    await fixture.finishAll();
    await passWait();
    const [first, second] = [await fixture.queues.takeWebhooks(1, 4), await fixture.queues.takeWebhooks(1, 4)];
    expect(first).not.toEqual([old]);
    expect(second).toEqual([old]);
  });

  test('leaves room for other hosts: of one only so many at a time', async () => {
    await fixture.submit(...Array.from({ length: 8 }, (_, index) => told(`a${index}`)), {
      id: 'other',
      notifyUrl: 'http://other.example',
    });
    await fixture.finishAll();
    const taken = [...(await take()), ...(await take()), ...(await take())];
    expect(taken).toHaveLength(5);
    const rows = await fixture.db.select({ id: webhooks.id, jobId: webhooks.jobId }).from(webhooks);
    expect(rows.filter(({ id }) => taken.includes(id)).map(({ jobId }) => jobId)).toContain('other');
  });

  test('goes with its job when that is deleted', async () => {
    await fixture.submit(told('a'));
    await fixture.finishAll();
    const [id = ''] = await take();
    await fixture.db.delete(jobs);
    await settleWebhook(fixture.db, fixture.queues, id, tried);
    expect([await made(), await queued()]).toEqual([[], 0]);
  });
});
