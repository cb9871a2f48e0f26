import { sql } from 'drizzle-orm';
import { jobs, uniqueKeys } from '../../db/schema.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import type { NewJob } from '../../jobs/submit.ts';
import { deleteExpiredKeys } from '../../jobs/unique.ts';
import { FAILED_PERMANENTLY, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const keyed = (key: string, more: Partial<NewJob> = {}): NewJob => ({
  type: 'test',
  priority: 'normal',
  payload: {},
  shape: SMALL,
  unique: { key, periodSeconds: 60 },
  ...more,
});
async function accept(...newJobs: NewJob[]): Promise<string[]> {
  return (await acceptJobs(fixture.db, fixture.queues, newJobs)).map(({ id }) => id);
}
const stored = () => fixture.db.$count(jobs);
const expire = () => fixture.db.execute(sql`update unique_keys set expires_at = now()`);

test('the same key returns the existing job in any status until it expires', async () => {
  const [first = ''] = await accept(keyed('a'));
  expect(await accept(keyed('a', { payload: { other: true } }))).toEqual([first]);
  await fixture.settle(await fixture.claimOne(), FAILED_PERMANENTLY);
  expect(await accept(keyed('a'))).toEqual([first]);
  await expire();
  const [second] = await accept(keyed('a'));
  expect(second).not.toBe(first);
  expect(await accept(keyed('a'))).toEqual([second]);
});

test('keys belong to an owner and a type', async () => {
  const ids = await accept(keyed('a'), keyed('b'), keyed('a', { owner: 'ann' }), keyed('a', { type: 'other' }));
  expect(new Set(ids).size).toBe(4);
});

test('two jobs of a batch with the same key are one job, also for dependants', async () => {
  const [first, second, third = ''] = await accept(
    keyed('a', { id: 'first' }),
    keyed('a', { id: 'second' }),
    keyed('b', { dependsOn: ['second'] }),
  );
  expect([first, second, await stored()]).toEqual(['first', 'first', 2]);
  expect(await fixture.job(third)).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
});

test('jobs that wait for each other only because they share a key are refused', async () => {
  const batch = [
    keyed('a', { id: 'a1', dependsOn: ['b'] }),
    keyed('b', { id: 'b', dependsOn: ['a2'] }),
    keyed('a', { id: 'a2' }),
  ];
  await expect(accept(...batch)).rejects.toMatchObject({ status: 422, code: 'dependency_cycle' });
  expect(await stored()).toBe(0);
});

test('concurrent requests and batches with one key make one job', async () => {
  for (let round = 0; round < 5; round++) {
    const requests = Array.from({ length: 12 }, (_, index) =>
      index % 2 === 0 ? accept(keyed(`x${round}`)) : accept(keyed(`y${round}`), keyed(`x${round}`)),
    );
    const answers = await Promise.all(requests);
    expect(new Set(answers.map((ids) => ids.at(-1))).size).toBe(1);
    expect(await stored()).toBe(2 * (round + 1));
    // An expired key is taken over once.
    await expire();
    const again = await Promise.all(Array.from({ length: 6 }, () => accept(keyed(`x${round}`))));
    expect(new Set(again.flat()).size).toBe(1);
    await fixture.db.execute(sql`delete from jobs where id = ${again[0]?.[0]}`);
    await fixture.db.execute(
      sql`delete from pgboss.job where id not in (select queue_id from jobs where queue_id is not null)`,
    );
  }
});

test('a deleted job frees its key, and keys that have expired are deleted', async () => {
  const [first = ''] = await accept(keyed('a'), keyed('b'));
  await fixture.settle(...([(await fixture.claim())[0], FAILED_PERMANENTLY] as Parameters<typeof fixture.settle>));
  await fixture.db.execute(sql`delete from jobs where id = ${first} and finished_at is not null`);
  expect(await fixture.db.$count(uniqueKeys)).toBe(1);
  expect(await accept(keyed('a'))).not.toEqual([first]);
  await fixture.db.execute(sql`update unique_keys set expires_at = now() where key = 'a'`);
  await deleteExpiredKeys(fixture.db);
  expect((await fixture.db.select().from(uniqueKeys)).map(({ key }) => key)).toEqual(['b']);
});
