import { sql } from 'drizzle-orm';
import type { JobFilter } from '../../db/jobs.ts';
import { findBulk, startBulk } from '../../jobs/bulk.ts';
import { FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const job = (id: string, ...dependsOn: string[]) => ({ id, dependsOn });

/** Retries matching jobs, and places all dependants. Returns the number of jobs that the operation changed. */
async function retryAll(filter: JobFilter = {}): Promise<number> {
  const wanted = { owner: null, action: 'retry' as const, filter: { status: 'failed' as const, ...filter } };
  const { id } = await startBulk(fixture.db, fixture.queues, fixture.log, wanted);
  await fixture.continueChanges();
  return (await findBulk(fixture.db, id))?.done ?? 0;
}

/** Submits jobs, and fails the ready ones. */
async function failed(...wanted: Parameters<JobsFixture['submit']>): Promise<string[]> {
  const ids = await fixture.submit(...wanted);
  await fixture.finishAll(FAILED_PERMANENTLY);
  return ids;
}

describe('a bulk retry', () => {
  test('selects by type, status and time, and returns the count', async () => {
    await failed({ id: 'old', type: 'one' }, { id: 'a', type: 'one' }, { id: 'b', type: 'two' });
    await fixture.db.execute(sql`update jobs set created_at = now() - interval '1 day' where id = 'old'`);
    await fixture.submit({ id: 'cancelled', type: 'one' });
    await fixture.cancel('cancelled');
    expect(await retryAll({ type: 'one', createdAfter: new Date(Date.now() - 3_600_000) })).toBe(1);
    expect(await fixture.statuses('old', 'a', 'b', 'cancelled')).toEqual(['failed', 'ready', 'failed', 'cancelled']);
    expect(await retryAll({ status: 'cancelled' })).toBe(1);
    expect(await retryAll()).toBe(2);
    expect(await retryAll()).toBe(0);
  });

  test('reopens whole graphs, in many batches', async () => {
    const heads = Array.from({ length: 130 }, (_, index) => `h${index}`);
    await failed(
      ...heads.map((id) => ({ id })),
      ...heads.map((id) => job(`a-${id}`, id)),
      job('z', ...heads.map((id) => `a-${id}`)),
    );
    await retryAll();
    expect((await fixture.finishAll()).at(-1)).toBe('z');
    expect(await fixture.db.execute(sql`select 1 from jobs where status <> 'completed'`)).toMatchObject({
      rowCount: 0,
    });
  });

  test('reopens prerequisites first, for any ids', async () => {
    await fixture.submit({ id: 'c' }, job('b', 'c'), job('a', 'b'));
    for (const id of ['a', 'b', 'c']) await fixture.cancel(id);
    await retryAll({ status: 'cancelled' });
    expect(await fixture.finishAll()).toEqual(['c', 'b', 'a']);
  });

  test('does not reopen dependants of a failed job that does not match', async () => {
    await failed({ id: 'a', type: 'one' }, { ...job('b', 'a'), type: 'two' });
    expect(await retryAll({ type: 'two' })).toBe(0);
    expect(await fixture.statuses('a', 'b')).toEqual(['failed', 'failed']);
    await fixture.db.execute(sql`delete from jobs where id = 'a'`);
    expect(await retryAll({ type: 'two' })).toBe(0);
    expect(await fixture.statuses('b')).toEqual(['failed']);
  });

  test('does not retry a job again that fails meanwhile', async () => {
    await failed(...Array.from({ length: 250 }, () => ({})));
    // A trigger fails the job again in the transaction that retries it, which is earlier than any converter.
    await fixture.db.execute(sql`create function fail_again() returns trigger language plpgsql as $$ begin
      update jobs set status = 'failed', queue_id = null, finished_at = clock_timestamp() where id = new.id;
      delete from pgboss.job where id = new.queue_id; return null; end $$`);
    await fixture.db.execute(sql`create constraint trigger fail_again after update on jobs deferrable initially deferred
      for each row when (new.status = 'ready' and old.status = 'failed') execute function fail_again()`);
    try {
      expect(await retryAll()).toBe(250);
    } finally {
      await fixture.db.execute(sql`drop trigger fail_again on jobs`);
    }
    expect(
      await fixture.statuses(
        ...(await fixture.db.execute<{ id: string }>(sql`select id from jobs`)).rows.map(({ id }) => id),
      ),
    ).toEqual(Array(250).fill('failed'));
  });

  test('skips jobs that ended after it began', async () => {
    await failed({ id: 'a' });
    await fixture.db.execute(sql`update jobs set finished_at = now() + interval '1 minute'`);
    expect(await retryAll()).toBe(0);
    expect(await fixture.statuses('a')).toEqual(['failed']);
  });
});
