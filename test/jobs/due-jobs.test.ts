import { eq, sql } from 'drizzle-orm';
import { jobs } from '../../db/schema.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import { until } from '../support/service.ts';
import { FAILED, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const send = () => sendDueJobs(fixture.db, fixture.queues);

/** Submits jobs that failed once and have been due for some seconds. */
async function submitDue(count: number, priority: 'critical' | 'low', secondsAgo: number): Promise<void> {
  await fixture.db.execute(sql`
    insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, max_attempts, initial_delay_seconds,
      backoff_multiplier, timeout_seconds, due_at)
    select ${priority} || '_' || n, 'test', ${priority}, now(), '{}', 1, 256, 'retrying', 3, 1, 2, 300,
      now() - make_interval(secs => ${secondsAgo})
    from generate_series(1, ${count}) n`);
}

const readyOf = (priority: 'critical' | 'low') =>
  fixture.db.$count(jobs, sql`status = 'ready' and priority = ${priority}`);

test('a job becomes ready when it is due, and not before', async () => {
  const [early = '', due = ''] = await fixture.submit({}, {});
  for (const job of await fixture.claim()) await fixture.settle(job, FAILED, null);
  await fixture.db.update(jobs).set({ dueAt: sql`now() + interval '1 hour'` }).where(eq(jobs.id, early));
  await fixture.db.update(jobs).set({ dueAt: sql`now() - interval '1 second'` }).where(eq(jobs.id, due));
  await send();
  expect(await fixture.job(early)).toMatchObject({ status: 'retrying', queueId: null });
  expect(await fixture.job(due)).toMatchObject({ status: 'ready', dueAt: null });
});

test('many due jobs become ready without a pause, and a critical one that becomes due meanwhile is next', async () => {
  await submitDue(3_000, 'low', 60);
  const sending = send();
  await until(async () => (await readyOf('low')) > 0);
  await submitDue(1, 'critical', 0);
  const before = await readyOf('low');
  await until(async () => (await readyOf('critical')) === 1, 5_000);
  const { rows } = await fixture.db.execute<{ count: number }>(sql`
    select count(*)::int as count from jobs low, jobs critical
    where critical.id = 'critical_1' and low.status = 'ready' and low.priority = 'low' and low.ready_at <= critical.ready_at`);
  // The running batch, and the one that begins with the critical job.
  expect(rows[0]?.count).toBeLessThanOrEqual(before + 1_000);
  await sending;
  expect(await readyOf('low')).toBe(3_000);
});

test('several processes make each due job ready once', async () => {
  await submitDue(1_200, 'low', 60);
  await Promise.all([send(), send(), send()]);
  await send();
  expect(await readyOf('low')).toBe(1_200);
});

test('jobs that are due are found through an index', async () => {
  await submitDue(2_000, 'low', -3_600);
  await fixture.db.execute(sql`analyze jobs`);
  const { rows } = await fixture.db.execute<{ 'QUERY PLAN': string }>(sql`
    explain select id from jobs where status in ('scheduled', 'retrying') and priority = 'low' and due_at <= now()
    order by due_at limit 500 for update skip locked`);
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).toContain('jobs_due');
  expect(plan).not.toContain('Sort');
});
