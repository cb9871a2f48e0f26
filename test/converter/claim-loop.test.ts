import { eq, sql } from 'drizzle-orm';
import { ClaimLoop } from '../../converter/claim-loop.ts';
import { Reservations } from '../../converter/reservations.ts';
import { listen } from '../../db/listen.ts';
import { jobs } from '../../db/schema.ts';
import { claimJobs } from '../../jobs/claim.ts';
import { READY_CHANNEL, sendWakeUps } from '../../jobs/wake.ts';
import { COMPLETED, type JobsFixture, openJobsFixture, SMALL } from '../jobs/fixture.ts';

/** Disables polling. */
const NEVER_MS = 2 ** 30;
const LARGE = { cpuUnits: 4, memoryMb: 4_096 };
const AMPLE = { cpuUnits: 1_000, memoryMb: 1_000_000 };

let fixture: JobsFixture;
let converters: Converter[] = [];
const starts = new Map<string, PromiseWithResolvers<Converter>>();
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(async () => {
  await Promise.all(converters.map(({ close }) => close()));
  converters = [];
  await fixture.expectSound();
});
afterAll(() => fixture.close());

type Converter = Awaited<ReturnType<typeof startConverter>>;

/** A claim loop with separate reservations and a separate listener, which starts jobs and does not run them. */
async function startConverter(capacity: typeof SMALL, { pollMs = NEVER_MS, types = ['test'] } = {}) {
  const row = await fixture.converter();
  const reservations = new Reservations(capacity);
  const running: (() => Promise<void>)[] = [];
  const isListening = Promise.withResolvers<void>();
  let onReceived: (() => void) | undefined;
  /** Resolved by a later claim that starts nothing. */
  const atRest: (() => void)[] = [];
  const counts = { claims: 0, passes: 0, received: 0 };
  const loop = new ClaimLoop({
    id: row.id,
    pollMs,
    free: () => reservations.free(),
    async claim() {
      counts.claims++;
      const waiting = atRest.splice(0);
      const claimant = { ...row, capacity, types, running: reservations.list() };
      const claim = await claimJobs(fixture.db, fixture.queues, claimant);
      for (const job of claim.started) {
        const release = reservations.reserve(job, job.timeoutSeconds);
        running.push(async () => {
          await fixture.settle(job, COMPLETED);
          release();
          loop.jobEnded();
        });
        start(job.id).resolve(self);
      }
      if (claim.started.length > 0 && !claim.isComplete) atRest.push(...waiting);
      else for (const resolve of waiting) resolve();
      return { ...claim, started: claim.started.length };
    },
    async send(wakeUps) {
      counts.passes += wakeUps.length;
      await sendWakeUps(fixture.db, wakeUps);
    },
  });
  const listener = listen(fixture.url, {
    name: 'test',
    log: fixture.log,
    channels: {
      [READY_CHANNEL]: (payload) => {
        // The connection itself sends an empty payload.
        if (payload === '') return isListening.resolve();
        counts.received++;
        loop.notify(payload);
        onReceived?.();
      },
    },
  });
  const self = {
    id: row.id,
    counts,
    loop,
    /** Ends its oldest job. */
    end: async () => running.shift()?.(),
    /** Resolves after this number of wake-ups, for any converter. */
    async received(count: number): Promise<void> {
      while (counts.received < count) {
        await new Promise<void>((resolve) => {
          onReceived = resolve;
        });
      }
    },
    /** Claims until nothing starts, so that all received wake-ups are handled. */
    async settle(): Promise<void> {
      await new Promise<void>((resolve) => {
        atRest.push(resolve);
        loop.claimSoon();
      });
    },
    async close(): Promise<void> {
      await listener.close();
      await loop.close();
    },
  };
  await isListening.promise;
  await self.settle();
  counts.claims = 0;
  return self;
}

/** Resolves when all received wake-ups are handled. */
async function rest(): Promise<void> {
  await Promise.all(converters.map(({ settle }) => settle()));
}

async function startConverters(capacities: (typeof SMALL)[], options?: Parameters<typeof startConverter>[1]) {
  converters = await Promise.all(capacities.map((capacity) => startConverter(capacity, options)));
  const peers = converters.map(({ id }) => id).sort();
  for (const { loop } of converters) loop.setPeers(peers);
}

/** The start of a job. */
function start(id: string): PromiseWithResolvers<Converter> {
  const known = starts.get(id) ?? Promise.withResolvers<Converter>();
  starts.set(id, known);
  return known;
}

/** Submits one job. Resolves with the converter that starts it. */
async function run(job: Parameters<JobsFixture['submit']>[0] = {}): Promise<Converter> {
  const [id = ''] = await fixture.submit(job);
  return start(id).promise;
}

const total = (count: keyof Converter['counts']) => converters.reduce((sum, { counts }) => sum + counts[count], 0);

test('one of eight idle converters claims for each job', async () => {
  await startConverters(Array(8).fill(AMPLE));
  const used = new Set<string>();
  for (let job = 0; job < 100; job++) used.add((await run()).id);
  expect(used.size).toBeGreaterThan(4);
  expect(total('claims')).toBeGreaterThanOrEqual(100);
  expect(total('claims')).toBeLessThanOrEqual(110);
  expect(total('passes')).toBe(0);
});

test('many jobs at a time start without a poll', async () => {
  await startConverters([...Array(7).fill(SMALL), AMPLE]);
  await Promise.all(Array.from({ length: 100 }, () => run()));
  const ids = await fixture.submit(...Array.from({ length: 100 }, () => ({})));
  await Promise.all(ids.map((id) => start(id).promise));
});

test('full converters do not claim, and pass the wake-up on to one with room', async () => {
  await startConverters(Array(9).fill(SMALL));
  for (let job = 0; job < 9; job++) await run();
  await rest();
  for (let turn = 0; turn < 20; turn++) {
    const free = converters[turn % 9] as Converter;
    await free.end();
    await free.settle();
    const others = converters.filter((one) => one !== free);
    const before = others.map(({ counts }) => counts.claims);
    expect((await run()).id).toBe(free.id);
    await free.settle();
    expect(others.map(({ counts }) => counts.claims)).toEqual(before);
  }
});

test('a job that fits one converter makes only that one claim', async () => {
  await startConverters([...Array(8).fill(SMALL), LARGE]);
  const large = converters[8] as Converter;
  for (let turn = 0; turn < 10; turn++) {
    expect((await run({ shape: LARGE })).id).toBe(large.id);
    await large.end();
  }
  expect(total('claims')).toBe(large.counts.claims);
});

test('a job without CPU causes at most two claims by converters that have only memory free', async () => {
  await startConverters(Array(5).fill({ cpuUnits: 1, memoryMb: 1_024 }));
  for (let job = 0; job < 5; job++) await run();
  await rest();
  const before = total('claims');
  await run({ shape: { cpuUnits: 0, memoryMb: 256 } });
  expect(total('claims')).toBeLessThanOrEqual(before + 2);
});

test('while a job waits longer than a poll, full converters pass on no wake-ups for jobs of its size', async () => {
  const pollMs = 60_000;
  await startConverters(Array(9).fill(SMALL), { pollMs });
  for (let job = 0; job < 9; job++) await run();
  const [id = ''] = await fixture.submit({});
  await fixture.db.update(jobs).set({ arrivedAt: sql`now() - interval '61 seconds'` }).where(eq(jobs.id, id));
  await rest();
  const passes = total('passes');
  expect(passes).toBeGreaterThan(0);
  await Promise.all(Array.from({ length: 20 }, () => fixture.submit({})));
  // Changing the arrival of the job also wakes converters.
  await Promise.all(converters.map((one) => one.received(9 + 2 + 20 + passes)));
  await rest();
  expect(total('passes')).toBe(passes);
});

test('a converter that stops passes wake-ups on', async () => {
  await startConverters(Array(6).fill(AMPLE));
  const last = converters[5] as Converter;
  await Promise.all(converters.filter((one) => one !== last).map(({ loop }) => loop.drain()));
  for (let job = 0; job < 20; job++) expect((await run()).id).toBe(last.id);
});

test('a job type reaches the converter that knows it', async () => {
  await startConverters(Array(5).fill(AMPLE));
  const knowing = await startConverter(AMPLE, { types: ['test', 'rare'] });
  converters.push(knowing);
  const peers = converters.map(({ id }) => id).sort();
  for (const { loop } of converters) loop.setPeers(peers);
  for (let job = 0; job < 10; job++) expect((await run({ type: 'rare' })).id).toBe(knowing.id);
});

test('a poll finds jobs for which no converter was woken', async () => {
  await startConverters(Array(4).fill(AMPLE), { pollMs: 50 });
  for (const { id, loop } of converters)
    loop.setPeers([...Array.from({ length: 1_000 }, (_, other) => `${other}`), id]);
  for (let job = 0; job < 5; job++) await run();
});
