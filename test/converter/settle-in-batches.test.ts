import { sql } from 'drizzle-orm';
import { settleInBatches } from '../../converter/settle-in-batches.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Outcome } from '../../jobs/settle.ts';
import { COMPLETED, FAILED, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

/** Postgres cannot store NUL in JSON. */
const NOT_STORABLE: Outcome = { kind: 'completed', result: { text: 'a\0b' } };

async function running(count: number): Promise<ClaimedJob[]> {
  await fixture.submit(...Array(count).fill({}));
  return fixture.claim();
}

/** Settles in batches, and counts transactions. */
function countingSettler() {
  let transactions = 0;
  const db = new Proxy(fixture.db, {
    get(target, name, receiver) {
      if (name === 'transaction') transactions++;
      return Reflect.get(target, name, receiver);
    },
  });
  const settler = settleInBatches(db, fixture.queues);
  const settle = (attempt: ClaimedJob, outcome: Outcome) => settler({ attempt, outcome, peakMemoryMb: null });
  return { settle, transactions: () => transactions };
}

test('attempts that end together share transactions, and each gets its result', async () => {
  const attempts = await running(150);
  // Every fifth no longer owns its job.
  for (const [index, { id }] of attempts.entries()) if (index % 5 === 0) await fixture.cancel(id);
  const { settle, transactions } = countingSettler();
  const answers = await Promise.all(attempts.map((attempt) => settle(attempt, COMPLETED)));
  expect(answers).toEqual(attempts.map((_, index) => index % 5 !== 0));
  expect(transactions()).toBe(3);
});

test('attempts that end during a settlement share the next one', async () => {
  const [first, ...others] = (await running(30)) as [ClaimedJob, ...ClaimedJob[]];
  const { settle, transactions } = countingSettler();
  const began = settle(first, COMPLETED);
  // The first transaction begins at the end of this turn of the event loop.
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  const answers = await Promise.all([began, ...others.map((attempt) => settle(attempt, FAILED))]);
  expect(answers).toEqual(Array(30).fill(true));
  expect(transactions()).toBe(2);
  expect(await settle(first, COMPLETED)).toBe(false);
});

test('an attempt that is settled twice at the same time is settled once', async () => {
  const [attempt] = (await running(1)) as [ClaimedJob];
  const { settle } = countingSettler();
  await Promise.all([settle(attempt, COMPLETED), settle(attempt, COMPLETED)]);
  expect(await fixture.job(attempt.id)).toMatchObject({ status: 'completed' });
  expect(await fixture.attempts(attempt.id)).toHaveLength(1);
});

test.each<[string, Outcome]>([
  ['result', NOT_STORABLE],
  ['name in a result', { kind: 'completed', result: { '\ud800': 1 } }],
  ['error', { kind: 'failed', error: { code: 'task_failed', message: 'a\0b' }, retryable: true }],
  [
    'part',
    { kind: 'split', children: [{ type: 'part', payload: { text: '\0' }, shape: { cpuUnits: 1, memoryMb: 256 } }] },
  ],
])('a %s that Postgres refuses permanently fails only its job', async (_name, outcome) => {
  const attempts = await running(10);
  const { settle } = countingSettler();
  const answers = await Promise.all(
    attempts.map((attempt, index) => settle(attempt, index === 4 ? outcome : COMPLETED)),
  );
  expect(answers).toEqual(Array(10).fill(true));
  const statuses = await fixture.statuses(...attempts.map(({ id }) => id));
  expect(statuses).toEqual(attempts.map((_, index) => (index === 4 ? 'failed' : 'completed')));
  const { id } = attempts[4] as ClaimedJob;
  expect(await fixture.job(id)).toMatchObject({
    error: { code: 'internal', message: 'task result could not be stored' },
    result: null,
  });
  expect(await fixture.attempts(id)).toMatchObject([{ status: 'failed', error: { code: 'internal' } }]);
});

test('a refused outcome of an attempt that no longer owns its job changes nothing', async () => {
  const [attempt] = (await running(1)) as [ClaimedJob];
  await fixture.cancel(attempt.id);
  expect(await countingSettler().settle(attempt, NOT_STORABLE)).toBe(false);
  expect((await fixture.job(attempt.id)).status).toBe('cancelled');
});

test('a failed settlement rejects, and later settlements succeed', async () => {
  const attempts = (await running(3)) as [ClaimedJob, ClaimedJob, ClaimedJob];
  await fixture.db.execute(sql`create function refuse() returns trigger language plpgsql as
    $$ begin if new.finished_at is not null then raise exception 'refused' using errcode = 'P0001'; end if; return new; end $$`);
  await fixture.db.execute(sql`create trigger refuse before update on jobs for each row execute function refuse()`);
  const { settle } = countingSettler();
  const results = await Promise.allSettled(attempts.map((attempt) => settle(attempt, COMPLETED)));
  expect(results.map(({ status }) => status)).toEqual(Array(3).fill('rejected'));
  await fixture.db.execute(sql`drop trigger refuse on jobs`);
  expect(await Promise.all(attempts.map((attempt) => settle(attempt, COMPLETED)))).toEqual(Array(3).fill(true));
});
