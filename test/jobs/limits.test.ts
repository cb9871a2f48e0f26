import { sql } from 'drizzle-orm';
import fc from 'fast-check';
import { positionInQueue } from '../../db/jobs.ts';
import { listen } from '../../db/listen.ts';
import { jobAttempts, jobs, PRIORITIES } from '../../db/schema.ts';
import { queueDepths } from '../../db/system.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import { admitMissed } from '../../jobs/limits.ts';
import { pauseJobType, resumeJobType } from '../../jobs/pause.ts';
import { type LimitedType, registerJobTypes } from '../../jobs/register-types.ts';
import type { Outcome } from '../../jobs/settle.ts';
import { READY_CHANNEL } from '../../jobs/wake.ts';
import { COMPLETED, FAILED, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

async function limit(...types: LimitedType[]): Promise<void> {
  await registerJobTypes(fixture.db, types);
  await admitMissed(fixture.db);
}

const ids = (claimed: ClaimedJob[]) => claimed.map(({ id }) => id);
const keyed = (concurrencyKey: string, count: number) => Array.from({ length: count }, () => ({ concurrencyKey }));

describe('a paused type', () => {
  test('accepts jobs and starts none, while others start and running jobs continue', async () => {
    const [running] = await fixture.submit({ type: 'mail' });
    const started = await fixture.claimOne();
    await pauseJobType(fixture.db, 'mail');
    const [waiting] = await fixture.submit({ type: 'mail' });
    const [other] = await fixture.submit({ type: 'test' });
    expect(ids(await fixture.claim())).toEqual([other]);
    expect(await fixture.settle(started, COMPLETED)).toBe(true);
    expect(await fixture.statuses(`${running}`, `${waiting}`)).toEqual(['completed', 'ready']);
    await resumeJobType(fixture.db, 'mail');
    expect(ids(await fixture.claim())).toEqual([waiting]);
  });

  test('wakes converters when it is resumed', async () => {
    await pauseJobType(fixture.db, 'mail');
    const connected = Promise.withResolvers<void>();
    const awake = Promise.withResolvers<void>();
    // The listener calls once when it is connected.
    const calls = [connected.resolve, awake.resolve];
    const channels = { [READY_CHANNEL]: () => calls.shift()?.() };
    const listener = listen(fixture.url, { name: 'test', log: fixture.log, channels });
    try {
      await connected.promise;
      await resumeJobType(fixture.db, 'mail');
      await awake.promise;
    } finally {
      await listener.close();
    }
  });

  test('starts no job once the pause is stored, even by claims that began before', async () => {
    await limit({ type: 'test' });
    const converters = await Promise.all([1, 2, 3].map(() => fixture.converter()));
    for (let round = 0; round < 10; round++) {
      await fixture.submit(...Array(12).fill({}));
      const claims = converters.map((by) => fixture.claimOnce(by, { capacity: { cpuUnits: 4, memoryMb: 4096 } }));
      await pauseJobType(fixture.db, 'test');
      const attempts = await fixture.db.$count(jobAttempts);
      await Promise.all(claims);
      expect(await fixture.db.$count(jobAttempts)).toBe(attempts);
      await resumeJobType(fixture.db, 'test');
    }
  });
});

describe('a limit for each key', () => {
  test('limits the running jobs of a key, and starts the next when one ends', async () => {
    await limit({ type: 'test', concurrency: { perKey: 2 } });
    const submitted = await fixture.submit(...keyed('acme', 5));
    const [other] = await fixture.submit({ concurrencyKey: 'other' });
    const [none] = await fixture.submit({});
    const first = await fixture.claim();
    expect(ids(first)).toEqual([...submitted.slice(0, 2), other, none]);
    const outcomes: Outcome[] = [COMPLETED, FAILED, { kind: 'returned' }, { kind: 'snoozed', seconds: 60 }];
    let running = first.slice(0, 2);
    for (const outcome of outcomes) {
      const [ends, ...stay] = running;
      if (ends === undefined) throw new Error('two jobs run');
      await fixture.settle(ends, outcome);
      const next = await fixture.claim();
      expect(next).toHaveLength(1);
      expect(await fixture.findings()).toEqual([]);
      running = [...stay, ...next];
    }
  });

  test('starts the next when one is cancelled, whether it runs, waits for a converter, or waits for its key', async () => {
    await limit({ type: 'test', concurrency: { perKey: 1 } });
    const [running, open, throttled, last] = await fixture.submit(...keyed('acme', 4));
    expect(ids(await fixture.claim())).toEqual([running]);
    for (const id of [throttled, running, open]) {
      await fixture.cancel(`${id}`);
      expect(await fixture.findings()).toEqual([]);
    }
    expect(ids(await fixture.claim())).toEqual([last]);
  });

  test('gives the slot of a job that has not started to a more urgent one', async () => {
    await limit({ type: 'test', concurrency: { perKey: 2 } });
    const [low, normal] = await fixture.submit(
      { concurrencyKey: 'acme', priority: 'low' },
      { concurrencyKey: 'acme', priority: 'normal' },
    );
    const [critical] = await fixture.submit({ concurrencyKey: 'acme', priority: 'critical' });
    const claimed = await fixture.claim();
    expect(ids(claimed)).toEqual([critical, normal]);
    for (const job of claimed) await fixture.settle(job, COMPLETED);
    expect(ids(await fixture.claim())).toEqual([low]);
  });

  test('lets an old job of a low priority start before newer ones of a higher', async () => {
    await limit({ type: 'test', concurrency: { perKey: 1 } });
    const ago = (seconds: number) => new Date(Date.now() - seconds * 1_000);
    await fixture.submit({ concurrencyKey: 'acme', priority: 'normal' });
    const running = await fixture.claimOne();
    const [high] = await fixture.submit({ concurrencyKey: 'acme', priority: 'high' });
    const [low] = await fixture.submit({ concurrencyKey: 'acme', priority: 'low', arrivedAt: ago(7_300) });
    await fixture.settle(running, COMPLETED);
    const next = await fixture.claimOne();
    expect(next.id).toBe(low);
    await fixture.settle(next, COMPLETED);
    expect(ids(await fixture.claim())).toEqual([high]);
  });

  test('counts jobs that wait for their key as waiting', async () => {
    await limit({ type: 'test', concurrency: { perKey: 1 } });
    const submitted = await fixture.submit(...keyed('acme', 3));
    const positions = await Promise.all(
      submitted.map(async (id) => positionInQueue(fixture.db, await fixture.job(id))),
    );
    expect(positions).toEqual([1, 2, 3]);
    expect(await queueDepths(fixture.db, 1_000)).toMatchObject([{ depth: 3 }]);
  });

  test('applies to waiting jobs when it is changed', async () => {
    await fixture.submit(...keyed('acme', 6));
    const startable = async () => (await fixture.db.select().from(jobs)).filter(({ throttled }) => !throttled).length;
    expect(await startable()).toBe(6);
    await registerJobTypes(fixture.db, [{ type: 'test', concurrency: { perKey: 2 } }]);
    expect(await fixture.claim()).toEqual([]);
    await admitMissed(fixture.db);
    expect(await startable()).toBe(2);
    await limit({ type: 'test', concurrency: { perKey: 3 } });
    expect(await startable()).toBe(3);
    await limit({ type: 'test' });
    expect(await startable()).toBe(6);
  });

  test('admits a job in a later round if it was locked when its key had a slot', async () => {
    await limit({ type: 'test', concurrency: { perKey: 1 } });
    const [, next] = await fixture.submit(...keyed('acme', 2));
    const running = await fixture.claimOne();
    await fixture.db.transaction(async (tx) => {
      await tx.execute(sql`select 1 from jobs where id = ${next} for share`);
      await fixture.settle(running, COMPLETED);
    });
    expect(await fixture.claim()).toEqual([]);
    await admitMissed(fixture.db);
    expect(ids(await fixture.claim())).toEqual([next]);
  });
});

test('a limit for a type holds for all converters that claim at once', async () => {
  await limit({ type: 'test', concurrency: { perType: 3 } });
  await fixture.submit(...Array(30).fill({}));
  const [other] = await fixture.submit({ type: 'other' });
  const converters = await Promise.all([1, 2, 3, 4].map(() => fixture.converter()));
  let claimed = (await Promise.all(converters.map((by) => fixture.claimOnce(by)))).flat();
  expect(ids(claimed)).toContain(other);
  claimed = claimed.filter(({ id }) => id !== other);
  expect(claimed).toHaveLength(3);
  for (const job of claimed.slice(0, 2)) await fixture.settle(job, COMPLETED);
  expect((await Promise.all(converters.map((by) => fixture.claimOnce(by)))).flat()).toHaveLength(2);
});

test('a rate lets its limit of jobs start at once, and then one for each token', async () => {
  await limit({ type: 'test', rate: { limit: 4, per_seconds: 4_000 } });
  await fixture.submit(...Array(12).fill({}));
  const converters = await Promise.all([1, 2, 3].map(() => fixture.converter()));
  const claim = async () => (await Promise.all(converters.map((by) => fixture.claimOnce(by)))).flat().length;
  const pass = (seconds: number) =>
    fixture.db.execute(sql`update job_types set refilled_at = refilled_at - make_interval(secs => ${seconds})`);
  expect(await claim()).toBe(4);
  expect(await claim()).toBe(0);
  await pass(1_001);
  expect(await claim()).toBe(1);
  await pass(500);
  expect(await claim()).toBe(0);
  await pass(100_000);
  expect(await claim()).toBe(4);
});

/** A repeatable stream of whole numbers below `most`. */
function seeded(seed: number): (most: number) => number {
  let state = seed;
  return (most) => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return Math.floor((state / 2 ** 32) * most);
  };
}

test('concurrent converters exceed no limit, end every job, and break no invariant', async () => {
  const limits = fc.record({ perKey: fc.integer({ min: 1, max: 3 }), perType: fc.integer({ min: 1, max: 5 }) });
  const job = fc.record({
    type: fc.constantFrom('a', 'b', 'c'),
    concurrencyKey: fc.constantFrom('x', 'y', 'z', null),
    priority: fc.constantFrom(...PRIORITIES),
  });
  const mix = fc.record({
    a: limits,
    b: limits,
    seed: fc.nat(),
    work: fc.array(job, { minLength: 10, maxLength: 40 }),
  });
  await fc.assert(
    fc.asyncProperty(mix, async ({ a, b, seed, work }) => {
      await limit(
        { type: 'a', concurrency: a },
        { type: 'b', concurrency: { perKey: b.perKey }, rate: { limit: 2, per_seconds: 1 } },
        { type: 'c', concurrency: { perType: b.perType } },
      );
      const isOver = async () => (await fixture.db.$count(jobs, sql`finished_at is null`)) === 0;
      const play = async (running: ClaimedJob, random: (most: number) => number) => {
        const failure = running.attempt < 3 ? random(5) : 4;
        if (failure === 0) await fixture.settle(running, { kind: 'returned' });
        else if (failure === 1) await fixture.settle(running, FAILED);
        else if (failure === 2) await fixture.settle(running, { kind: 'snoozed', seconds: 60 });
        else if (failure === 3) await fixture.cancel(running.id);
        else await fixture.settle(running, COMPLETED);
      };
      const converterAtWork = async (random: (most: number) => number) => {
        const by = await fixture.converter();
        let running: ClaimedJob[] = [];
        while (!(await isOver())) {
          await fixture.db.execute(sql`update converters set heartbeat_at = now()`);
          running.push(
            ...(await fixture.claimOnce(by, {
              capacity: { cpuUnits: 4, memoryMb: 4096 },
              running: running.map(() => ({ shape: SMALL, endsAt: 0 })),
            })),
          );
          expect(await fixture.findings()).toEqual([]);
          const ending = running.filter(() => random(2) === 0);
          running = running.filter((one) => !ending.includes(one));
          await Promise.all(ending.map((one) => play(one, random)));
          // Skips backoffs and the refill of tokens.
          await fixture.db.execute(
            sql`update jobs set due_at = now() where status in ('retrying', 'scheduled') and due_at > now()`,
          );
          await fixture.db.execute(
            sql`update job_types set refilled_at = refilled_at - interval '1 second' where type = 'b'`,
          );
          await sendDueJobs(fixture.db, fixture.queues);
        }
      };
      const random = seeded(seed);
      await Promise.all([fixture.submit(...work.slice(0, 8)), ...work.slice(8).map((one) => fixture.submit(one))]);
      await Promise.all([1, 2, 3].map((each) => converterAtWork(seeded(seed + each + random(100)))));
      await fixture.expectSound();
    }),
    { numRuns: 4, endOnFailure: true },
  );
});
