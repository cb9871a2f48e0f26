import { sql } from 'drizzle-orm';
import { asAdmin } from '../../bench/superuser.ts';
import { openDatabase } from '../../db/client.ts';
import { jobs } from '../../db/schema.ts';
import { RetryTransaction, transition } from '../../jobs/transition.ts';
import { until } from '../support/service.ts';
import { FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

test('a transition is retried after a deadlock, and takes effect once', async () => {
  await fixture.submit({ id: 'a' }, { id: 'b', dependsOn: ['a'] }, { id: 'c', dependsOn: ['b'] });
  const attempt = await fixture.claimOne();
  const { pool, close } = await openDatabase(asAdmin(fixture.url), { name: 'test', log: fixture.log, max: 1 });
  const other = await pool.connect();
  try {
    // The settlement locks b and then c. The other session locks c and then b, and detects deadlocks later.
    await other.query("begin; set local deadlock_timeout = '1min'; select 1 from jobs where id = 'c' for update");
    const settled = fixture.settle(attempt, FAILED_PERMANENTLY);
    await until(async () => {
      const { rows } = await fixture.db.execute(sql`
        select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`);
      return rows.length > 0;
    });
    await other.query("select 1 from jobs where id = 'b' for update");
    await other.query('commit');
    expect(await settled).toBe(true);
  } finally {
    other.release();
    await close();
  }
  expect(await fixture.statuses('a', 'b', 'c')).toEqual(['failed', 'failed', 'failed']);
  expect(await fixture.job('a')).toMatchObject({ failures: 1 });
  expect((await fixture.events('c')).map(({ status }) => status)).toEqual(['blocked', 'failed']);
});

test('a transition that throws RetryTransaction starts again without its writes', async () => {
  await fixture.submit({ id: 'a', dependsOn: [] });
  let tries = 0;
  const result = await transition(fixture.db, async (tx) => {
    await tx.update(jobs).set({ maxAttempts: sql`${jobs.maxAttempts} + 1` });
    if (++tries < 4) throw new RetryTransaction();
    return 'done';
  });
  expect([result, tries, (await fixture.job('a')).maxAttempts]).toEqual(['done', 4, 4]);
});

test('a transition that always fails gives up', async () => {
  let tries = 0;
  const never = transition(fixture.db, async () => {
    tries++;
    throw new RetryTransaction();
  });
  await expect(never).rejects.toThrow(RetryTransaction);
  expect(tries).toBe(10);
});

test('any other error is thrown at once, and nothing is written', async () => {
  await fixture.submit({ id: 'a' });
  let tries = 0;
  const failing = transition(fixture.db, async (tx) => {
    tries++;
    await tx.update(jobs).set({ maxAttempts: 9 });
    await tx.execute(sql`select 1 / 0`);
  });
  await expect(failing).rejects.toMatchObject({ cause: { code: '22012' } });
  expect([tries, (await fixture.job('a')).maxAttempts]).toEqual([1, 3]);
});
