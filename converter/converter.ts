import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import path from 'node:path';
import { and, eq, sql } from 'drizzle-orm';
import type { Config } from '../config.ts';
import type { Database } from '../db/client.ts';
import { listen } from '../db/listen.ts';
import type { Queues } from '../db/queues.ts';
import { converters } from '../db/schema.ts';
import { ConverterLost, claimJobs } from '../jobs/claim.ts';
import { keepHouse, tidyUp } from '../jobs/housekeeping.ts';
import { registerJobTypes } from '../jobs/job-types.ts';
import { admitMissed } from '../jobs/limits.ts';
import { CANCELLED_CHANNEL, keyOf, ownedAttempts, READY_CHANNEL } from '../jobs/running.ts';
import type { Logger } from '../log.ts';
import { createSignal } from '../signal.ts';
import type { Store } from '../store/store.ts';
import type { Tasks } from '../tasks/registry.ts';
import { traceIdIn } from '../tracing.ts';
import { createLedger } from './capacity.ts';
import { executeJob } from './executor.ts';
import { jobWait, watchLedger } from './metrics.ts';
import { createSandboxPool } from './sandbox/pool.ts';
import { createSettler } from './settler.ts';
import { sweepHistory, sweepStore } from './sweep.ts';

const HEARTBEAT_MS = 3_000;
const HOUSEKEEPING_MS = 1_000;
const ADMIT_MS = 10_000;
const TIDY_MS = 60_000;
const SWEEP_STORE_MS = 6 * 3_600_000;

/**
 * A converter at work: claims jobs that fit what it has free, runs them in sandboxes and settles them, under an id of
 * its own. Throws, with nothing left behind, when Postgres cannot be reached. `lost` resolves when others have declared it lost, or when it could not settle an attempt;
 * the owner then calls `stop(0)` and starts another.
 * `stop` claims nothing new, waits up to the grace for what runs, and hands back the rest.
 */
export async function startConverter({
  db,
  databaseUrl,
  queues,
  store,
  tasks,
  config,
  log: parentLog,
}: {
  db: Database;
  databaseUrl: string;
  queues: Queues;
  store: Store;
  tasks: Tasks;
  config: Config;
  log: Logger;
}) {
  const converter = { id: randomUUID(), name: `${hostname()}-${process.pid}` };
  const log = parentLog.child({ converter: converter.id });
  const capacity = { cpuUnits: config.CAPACITY_CPU, memoryMb: config.CAPACITY_MEMORY_MB };
  await registerJobTypes(db, tasks.values());
  await db.insert(converters).values({ ...converter, ...capacity });
  const ledger = createLedger(capacity);
  watchLedger(capacity, ledger.free);
  const pool = createSandboxPool({
    keep: capacity.cpuUnits,
    roomMb: () => ledger.free().memoryMb,
    cacheFolder: path.join(config.DATA_DIR, 'compile-cache'),
    tasksModule: config.TASKS,
    log,
  });
  const wake = createSignal();
  const handBack = new AbortController();
  const closing = new AbortController();
  const lost = Promise.withResolvers<void>();
  const running = new Map<string, { execution: Promise<void>; lost: AbortController }>();
  const types = [...tasks.keys()];
  const parts = { db, store, tasks, settle: createSettler(db, queues), config };
  const sweepParts = { db, queues, store, log };
  let stopping = false;

  async function claimWhatFits(): Promise<boolean> {
    const claimed = await claimJobs(db, queues, { ...converter, capacity, types, running: ledger.running() });
    for (const job of claimed) {
      jobWait.observe({ type: job.type }, job.waitedSeconds);
      const jobLog = log.child({
        job: job.id,
        attempt: job.attempt,
        upload: job.uploadId ?? undefined,
        trace: traceIdIn(job.traceparent),
      });
      const release = ledger.reserve(job, job.timeoutSeconds);
      const sandbox = tasks.get(job.type)?.trusted ? undefined : pool.lease(job.memoryMb, jobLog);
      const lostJob = new AbortController();
      const execution = executeJob({ ...parts, log: jobLog }, job, { sandbox, stop: handBack.signal, lost: lostJob })
        .catch((error) => {
          // Under a new id, whoever keeps house settles it as lost; left alone, it would be `running` for ever.
          jobLog.error({ err: error }, 'attempt not settled; starting again');
          lost.resolve();
        })
        .finally(() => {
          sandbox?.release();
          release();
          pool.refill();
          running.delete(keyOf(job));
          wake.set();
        });
      running.set(keyOf(job), { execution, lost: lostJob });
    }
    if (claimed.length > 0) void pool.makeRoom();
    return claimed.length > 0;
  }

  /** Aborts what runs here and is no longer ours: cancelled, most likely. */
  async function abortLost(): Promise<void> {
    const before = [...running];
    if (before.length === 0) return;
    const owned = await ownedAttempts(db, converter.id);
    for (const [key, { lost: lostJob }] of before) if (!owned.has(key)) lostJob.abort();
  }

  async function heartbeat(): Promise<void> {
    const beaten = await db
      .update(converters)
      .set({ heartbeatAt: sql`now()` })
      .where(and(eq(converters.id, converter.id), eq(converters.status, 'live')))
      .returning({ id: converters.id });
    if (beaten.length === 0) throw new ConverterLost();
  }

  const onError = (doing: string) => (error: unknown) => {
    if (error instanceof ConverterLost) lost.resolve();
    else log.warn({ err: error }, `${doing} failed`);
    return false;
  };
  const claiming = (async () => {
    while (!stopping) {
      if (!(await claimWhatFits().catch(onError('claim')))) await wake.wait(HOUSEKEEPING_MS);
    }
  })();
  const listener = listen(databaseUrl, {
    name: 'sheetmill-converter',
    log,
    channels: {
      [READY_CHANNEL]: wake.set,
      [CANCELLED_CHANNEL]: () => void abortLost().catch(onError('looking for cancelled jobs')),
    },
  });
  const every = (ms: number, doing: string, work: () => Promise<void>) =>
    repeat(ms, () => work().catch(onError(doing)));
  const timers = [
    every(HEARTBEAT_MS, 'heartbeat', heartbeat),
    every(HOUSEKEEPING_MS, 'housekeeping', () => keepHouse(db, queues, log)),
    every(ADMIT_MS, 'admitting jobs to their keys', () => admitMissed(db)),
    every(TIDY_MS, 'tidying up', () => tidyUp(db, log)),
    every(TIDY_MS, 'sweeping', () => sweepHistory(sweepParts, config.RETENTION_DAYS, closing.signal)),
    every(SWEEP_STORE_MS, 'sweeping the store', () => sweepStore(sweepParts, closing.signal)),
    every(HOUSEKEEPING_MS, 'looking for cancelled jobs', abortLost),
  ];
  log.info({ capacity }, 'converter started');

  return {
    id: converter.id,
    lost: lost.promise,
    /** Resolves when the first upload would be converted as fast as later ones. */
    warm: pool.warm(),
    async stop(graceMs: number): Promise<void> {
      stopping = true;
      closing.abort();
      wake.set();
      await Promise.all([claiming, listener.close()]);
      const grace = setTimeout(() => handBack.abort(), graceMs);
      await Promise.all([...running.values()].map(({ execution }) => execution));
      clearTimeout(grace);
      await Promise.all([pool.close(), ...timers.map((stopTimer) => stopTimer())]);
      await db
        .update(converters)
        .set({ status: 'stopped' })
        .where(and(eq(converters.id, converter.id), eq(converters.status, 'live')))
        .catch(onError('sign-off'));
      log.info('converter stopped');
    },
  };
}

/** Does `work` again `ms` after it ended; gives the function that ends this and waits for the round under way. */
function repeat(ms: number, work: () => Promise<unknown>): () => Promise<void> {
  const stopped = createSignal();
  let ended = false;
  const rounds = (async () => {
    while (!ended) {
      await work();
      await stopped.wait(ms);
    }
  })();
  return () => {
    ended = true;
    stopped.set();
    return rounds;
  };
}
