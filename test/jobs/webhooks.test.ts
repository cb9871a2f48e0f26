import { asc, eq, sql } from 'drizzle-orm';
import { jobs, uploads, webhookAttempts, webhookHosts, webhooks } from '../../db/schema.ts';
import { type LockedWebhook, takeWebhooks } from '../../db/webhooks.ts';
import { type Delivery, releaseWebhook, settleWebhook } from '../../jobs/webhooks.ts';
import { rowsReadBy } from '../support/rows-read.ts';
import { COMPLETED, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture, range } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const URL = 'http://receiver.example/hook';
const notified = (id: string, ...dependsOn: string[]) => ({ id, dependsOn, notifyUrl: URL });

/** The subjects and types of the webhooks, oldest first. */
async function made(): Promise<string[]> {
  const rows = await fixture.db.select().from(webhooks).orderBy(asc(webhooks.createdAt), asc(webhooks.jobId));
  for (const row of rows) expect(row).toMatchObject({ url: URL, status: 'pending', finishedAt: null });
  return rows.map(({ jobId, uploadId, type }) => `${jobId ?? uploadId} ${type}`);
}

const pending = () => fixture.db.$count(webhooks, eq(webhooks.status, 'pending'));

test('each end of a job creates one webhook if it has a notify_url', async () => {
  await fixture.submit(notified('a'), { id: 'silent' });
  await fixture.finishAll(FAILED_PERMANENTLY);
  expect(await made()).toEqual(['a job.failed']);
  await fixture.retry('a');
  await fixture.cancel('a');
  await fixture.retry('a');
  const attempt = await fixture.claimOne();
  await fixture.settle(attempt, COMPLETED);
  // Another process has settled it.
  await fixture.settle(attempt, COMPLETED);
  expect(await made()).toEqual(['a job.failed', 'a job.cancelled', 'a job.completed']);
  expect(await pending()).toBe(3);
});

test('a pending retry or a returned job creates no webhook', async () => {
  await fixture.submit({ ...notified('a'), maxAttempts: 2 });
  const error = { code: 'task_failed' as const, message: 'once' };
  await fixture.settle(await fixture.claimOne(), { kind: 'failed', error, retryable: true });
  await fixture.passBackoff();
  await fixture.settle(await fixture.claimOne(), { kind: 'returned' });
  expect(await made()).toEqual([]);
  await fixture.settle(await fixture.claimOne(), { kind: 'failed', error, retryable: true });
  expect(await made()).toEqual(['a job.failed']);
});

test('a job that fails with its prerequisite creates a webhook, at any depth', async () => {
  await fixture.submit(notified('a'), notified('b', 'a'), notified('c', 'b'), { id: 'd', dependsOn: ['c'] });
  await fixture.cancel('a');
  expect((await made()).toSorted()).toEqual(['a job.cancelled', 'b job.failed', 'c job.failed']);
  await fixture.submit(notified('late', 'c'));
  expect((await made()).at(-1)).toBe('late job.failed');
});

test('an upload creates one webhook with its last job, and another after a retry', async () => {
  const id = await fixture.upload(2);
  await fixture.db.update(uploads).set({ notifyUrl: URL }).where(eq(uploads.id, id));
  const [first, second] = await fixture.claim();
  await fixture.settle(first as never, { kind: 'split', children: [range([1, 1]), range([2, 2])] });
  await fixture.settle(second as never, FAILED_PERMANENTLY);
  expect(await made()).toEqual([]);
  await fixture.finishAll();
  expect(await made()).toEqual([`${id} upload.failed`]);
  await fixture.retry(second?.id as string);
  await fixture.finishAll();
  expect(await made()).toEqual([`${id} upload.failed`, `${id} upload.completed`]);
});

test('an end that is rolled back creates no webhook', async () => {
  await fixture.submit(notified('a'));
  const [job] = await fixture.claim();
  await fixture.db.execute(
    sql`create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$`,
  );
  await fixture.db.execute(
    sql`create constraint trigger refuse after update on jobs deferrable initially deferred for each row execute function refuse()`,
  );
  await expect(fixture.settle(job as never, COMPLETED)).rejects.toThrow();
  await fixture.db.execute(sql`drop trigger refuse on jobs`);
  expect([await made(), await pending()]).toEqual([[], 0]);
  await fixture.settle(job as never, COMPLETED);
  expect([await made(), await pending()]).toEqual([['a job.completed'], 1]);
});

describe('a locked webhook', () => {
  const sent = { startedAt: new Date(), durationMs: 1, statusCode: null, error: null, final: false };
  const answered = { ...sent, statusCode: 503, error: 'answered 503', answer: 'prompt' } as const;
  const unanswered = { ...sent, error: 'no answer', answer: 'none' } as const;
  const ROOM = { prompt: 10, new: 10, slow: 10 };
  const take = async (room = ROOM) => (await takeWebhooks(fixture.db, room)).taken;
  const settle = (locked: LockedWebhook, delivery: Delivery) => settleWebhook(fixture.db, locked, delivery);
  async function rowOf(id: string) {
    const [row] = await fixture.db.select().from(webhooks).where(eq(webhooks.id, id));
    return row;
  }
  /** Ends all delays of webhooks and hosts. */
  async function passWaits(): Promise<void> {
    await fixture.db.update(webhooks).set({ dueAt: sql`now()` });
    await fixture.db.update(webhookHosts).set({ retryAt: sql`now()` });
  }
  async function takeOne(): Promise<LockedWebhook> {
    const [locked, ...others] = await take();
    if (locked === undefined || others.length > 0) throw new Error('one webhook expected');
    return locked;
  }
  const toHost = (host: string, count: number) =>
    fixture.submit(
      ...Array.from({ length: count }, (_, index) => ({ id: `${host}-${index}`, notifyUrl: `http://${host}/hook` })),
    );
  const hosts = (taken: LockedWebhook[]) => taken.map(({ host }) => host).toSorted();

  test.each([
    ['answered with an error', answered],
    ['not answered', unanswered],
  ])('that is %s is sent thirteen times in a day, and then fails', async (_name, outcome) => {
    await fixture.submit(notified('a'));
    await fixture.finishAll();
    let waited = 0;
    for (let attempt = 1; attempt <= 13; attempt++) {
      const locked = await takeOne();
      expect(await settle(locked, outcome)).toBe(attempt < 13 ? 'pending' : 'failed');
      const { rows } = await fixture.db.execute<{ wait: number; rest: number }>(sql`
        select extract(epoch from due_at - now())::int as wait, extract(epoch from coalesce(retry_at, now()) - now())::int as rest
        from webhooks join webhook_hosts using (host)`);
      const [{ wait = 0, rest = 0 } = {}] = rows;
      if (attempt < 13) waited += wait;
      // The delay of the host never exceeds that of a single webhook.
      if (attempt < 13) expect(rest).toBeLessThanOrEqual(wait);
      expect(await take()).toEqual([]);
      await passWaits();
    }
    expect(waited / 3600).toBeCloseTo(24, 0);
    expect([await take(), await pending()]).toEqual([[], 0]);
  });

  test('is locked again when it was not settled in time; a late result counts only if it was delivered', async () => {
    await fixture.submit(notified('a'));
    await fixture.finishAll();
    const first = await takeOne();
    expect(await take()).toEqual([]);
    const past = sql`now() - interval '1 second'`;
    await fixture.db.update(webhooks).set({ lockedUntil: past, dueAt: past });
    const second = await takeOne();
    expect(await settle(first, unanswered)).toBeUndefined();
    expect((await rowOf(second.id))?.lockedUntil).toEqual(second.lockedUntil);
    expect(await settle(first, { ...sent, statusCode: 200, answer: 'prompt' })).toBe('delivered');
    expect(await settle(second, unanswered)).toBeUndefined();
    expect(await rowOf(first.id)).toMatchObject({ status: 'delivered', lockedUntil: null });
  });

  test('is due at once when its delivery was interrupted, without a failure', async () => {
    await fixture.submit(notified('a'));
    await fixture.finishAll();
    await releaseWebhook(fixture.db, await takeOne());
    const again = await takeOne();
    expect(await fixture.db.$count(webhookAttempts)).toBe(0);
    expect(await settle(again, { ...sent, statusCode: 200, answer: 'prompt' })).toBe('delivered');
  });

  test('leaves room for other hosts: a host that is new or does not answer gets one, others four', async () => {
    await toHost('busy', 8);
    await toHost('dead', 8);
    await fixture.finishAll();
    const [busy, dead] = (await take()).toSorted((a, b) => a.host.localeCompare(b.host));
    expect([busy?.host, dead?.host, busy?.lane]).toEqual(['busy', 'dead', 'new']);
    expect(await take()).toEqual([]);
    await settle(busy as LockedWebhook, { ...sent, statusCode: 200, answer: 'prompt' });
    await settle(dead as LockedWebhook, unanswered);
    expect(hosts(await take({ ...ROOM, prompt: 3 }))).toEqual(['busy', 'busy', 'busy']);
    await passWaitsOfHost('dead');
    await toHost('other', 2);
    await fixture.finishAll();
    const next = await take({ ...ROOM, prompt: 10 });
    expect(next.map(({ host, lane }) => [host, lane]).toSorted()).toEqual([
      ['busy', 'prompt'],
      ['dead', 'slow'],
      ['other', 'new'],
    ]);
    expect(await take()).toEqual([]);
    await fixture.empty();
  });
  const passWaitsOfHost = (host: string) =>
    fixture.db.update(webhookHosts).set({ retryAt: sql`now()` }).where(eq(webhookHosts.host, host));

  test('fails with all that have waited a day for a host that did not answer', async () => {
    await toHost('dead', 5);
    await fixture.finishAll();
    await settle(await takeOne(), unanswered);
    await passWaits();
    const aged = sql`now() - interval '25 hours'`;
    await fixture.db.update(webhookHosts).set({ failingSince: aged });
    await fixture.db.update(webhooks).set({ createdAt: aged });
    await fixture.db.update(webhooks).set({ createdAt: sql`now()` }).where(eq(webhooks.jobId, 'dead-4'));
    await settle(await takeOne(), unanswered);
    const rows = await fixture.db.select().from(webhooks).orderBy(asc(webhooks.jobId));
    expect(rows.filter(({ status }) => status === 'failed').map(({ jobId }) => jobId)).not.toContain('dead-4');
    expect(rows.filter(({ status }) => status === 'failed').length).toBeGreaterThanOrEqual(3);
    const [last] = await fixture.db.select().from(webhookAttempts).where(eq(webhookAttempts.durationMs, 0)).limit(1);
    expect(last?.error).toBe('not sent: the receiver has not answered for 24 hours');
  });

  test('is found without reading the backlog of other hosts', async () => {
    await toHost('good', 1);
    await fixture.finishAll();
    const backlog = 20_000;
    await fixture.db.execute(sql`
      insert into webhooks (id, job_id, url, host, type, created_at, due_at)
      select gen_random_uuid(), 'good-0', 'http://dead', 'dead-' || n % 12, 'job.completed', now() - interval '1 hour', now() - interval '1 hour'
      from generate_series(1, ${backlog}::int) n`);
    await fixture.db.insert(webhookHosts).values(
      Array.from({ length: 12 }, (_, index) => ({
        host: `dead-${index}`,
        slow: true,
        failures: 5,
        retryAt: index < 6 ? sql`now() + interval '1 minute'` : null,
      })),
    );
    // Autovacuum does so at any time.
    await fixture.db.execute(sql`analyze webhooks`);
    const { found, read } = await rowsReadBy(fixture.db, 'webhooks', (tx) => takeWebhooks(tx, ROOM));
    expect(hosts(found.taken)).toEqual(['dead-10', 'dead-11', 'dead-6', 'dead-7', 'dead-8', 'dead-9', 'good']);
    // The first row of 13 hosts, the due rows of seven, their updates, and the index ends that the planner reads.
    expect(read).toBeLessThan(400);
  });

  test('among many hosts is found by queries that continue after the last one', async () => {
    await fixture.submit(
      ...Array.from({ length: 1_100 }, (_, n) => ({ id: `many-${n}`, notifyUrl: `http://h${n}.example/` })),
    );
    await fixture.finishAll();
    const found: LockedWebhook[] = [];
    let looks = 0;
    for (let after: string | null = null; looks === 0 || after !== null; looks++) {
      const look = await takeWebhooks(fixture.db, { ...ROOM, new: 1_000 }, after);
      found.push(...look.taken);
      after = look.next;
    }
    expect([looks, new Set(found.map(({ host }) => host)).size]).toEqual([3, 1_100]);
  });

  test('is locked by one of two processes, and its host keeps its limit', async () => {
    await toHost('busy', 20);
    await fixture.finishAll();
    await settle(await takeOne(), { ...sent, statusCode: 200, answer: 'prompt' });
    const taken = (await Promise.all([1, 2, 3, 4].map(() => take()))).flat();
    expect(new Set(taken.map(({ id }) => id)).size).toBe(4);
  });

  test('is deleted with its job', async () => {
    await fixture.submit(notified('a'));
    await fixture.finishAll();
    const locked = await takeOne();
    await fixture.db.delete(jobs);
    expect(await settle(locked, answered)).toBeUndefined();
    expect([await made(), await pending()]).toEqual([[], 0]);
  });
});
