import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { and, eq } from 'drizzle-orm';
import type { Tasks } from '../conversion/registry.ts';
import type { Database } from '../db/client.ts';
import { listen } from '../db/listen.ts';
import type { Queues } from '../db/queues.ts';
import { overdueSeconds } from '../db/retention.ts';
import { converters } from '../db/schema.ts';
import { ConverterLost, claimJobs } from '../jobs/claim.ts';
import { sendDueJobs } from '../jobs/due-jobs.ts';
import { admitMissed } from '../jobs/limits.ts';
import { continueChanges, maintain, pruneHistory } from '../jobs/maintenance.ts';
import { registerJobTypes } from '../jobs/register-types.ts';
import { CANCELLED_CHANNEL, READY_CHANNEL, sendWakeUps } from '../jobs/wake.ts';
import type { Config } from '../runtime/config.ts';
import type { Logger } from '../runtime/log.ts';
import { traceIdIn } from '../runtime/tracing.ts';
import { createSignal } from '../runtime/wake-flag.ts';
import type { Store } from '../store/store.ts';
import { ClaimLoop } from './claim-loop.ts';
import { executeJob } from './executor.ts';
import { openWorkFolder } from './files/work-folder.ts';
import { Heartbeat } from './heartbeat.ts';
import { isolationLayers, jobWait, watchLedger, watchRetention } from './metrics.ts';
import { createLedger } from './reservations.ts';
import { Retention } from './retention.ts';
import { RunningAttempts } from './running-attempts.ts';
import { compiledCodeFolder, compileSandboxCode } from './sandbox/compiled-code.ts';
import { detectIsolation, type Isolation } from './sandbox/isolation/detect.ts';
import { startOrphanReaper } from './sandbox/orphans.ts';
import { createSandboxPool } from './sandbox/pool.ts';
import { createSettler } from './settler.ts';
import { sweepStore } from './sweep.ts';
import { WakeListener } from './wake-listener.ts';

const ROUND_MS = 1_000;
const ADMIT_MS = 10_000;
const TIDY_MS = 60_000;
const SWEEP_STORE_MS = 6 * 3_600_000;

/**
 * A converter at work: claims jobs that fit what it has free, runs them in sandboxes and settles them, under an id of
 * its own. Throws, with nothing left behind, when Postgres cannot be reached. `lost` resolves when others have declared it lost;
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
  const work = await openWorkFolder(config);
  await registerJobTypes(db, tasks.values());
  const isolation = await detectIsolation({ foldersIn: work.path });
  reportIsolation(isolation, log);
  const { level, layers } = isolation;
  await db.insert(converters).values({ ...converter, ...capacity, isolation: { level, layers } });
  const ledger = createLedger(capacity);
  watchLedger(capacity, ledger.free);
  watchRetention(() => overdueSeconds(db, config.RETENTION_DAYS));
  const cacheFolder = compiledCodeFolder(config.DATA_DIR);
  const pool = createSandboxPool({
    keep: capacity.cpuUnits,
    roomMb: () => ledger.free().memoryMb,
    workFolder: work.path,
    cacheFolder,
    tasksModule: config.TASKS,
    hidden: [config.DATA_DIR],
    isolation,
    orphans: isolation.namespaces === 'none' ? await startOrphanReaper() : null,
    reuse: config.SANDBOX_REUSE,
    log,
  });
  const handBack = new AbortController();
  const closing = new AbortController();
  const lost = Promise.withResolvers<void>();
  void compileSandboxCode(cacheFolder, config.TASKS, closing.signal).catch((error) => {
    if (!closing.signal.aborted) log.warn({ err: error }, 'sandboxes start slowly: their code could not be compiled');
  });
  const types = [...tasks.keys()];
  const parts = { db, store, tasks, settle: createSettler(db, queues), config, workFolder: work.path };
  const running = new RunningAttempts({ db, converterId: converter.id, settle: parts.settle, log });
  const retention = new Retention({ db, queues, store, log }, config.RETENTION_DAYS);

  async function claimWhatFits() {
    const claim = await claimJobs(db, queues, { ...converter, capacity, types, running: ledger.running() });
    for (const job of claim.started) {
      jobWait.observe({ type: job.type }, job.waitedSeconds);
      const jobLog = log.child({
        job: job.id,
        attempt: job.attempt,
        upload: job.uploadId ?? undefined,
        trace: traceIdIn(job.traceparent),
      });
      const release = ledger.reserve(job, job.timeoutSeconds);
      const sandbox = tasks.get(job.type)?.trusted ? undefined : pool.lease(job.memoryMb, job.owner, jobLog);
      const lostJob = new AbortController();
      const execution = { sandbox, stop: handBack.signal, lost: lostJob };
      running.begin(job, lostJob, (onWait) =>
        executeJob({ ...parts, log: jobLog }, job, { ...execution, onWait }).finally(() => {
          sandbox?.release();
          release();
          pool.refill();
          claimLoop.jobEnded();
        }),
      );
    }
    if (claim.started.length > 0) void pool.makeRoom();
    return { ...claim, started: claim.started.length };
  }

  const onError = (doing: string) => (error: unknown) => {
    if (error instanceof ConverterLost) lost.resolve();
    else log.warn({ err: error }, `${doing} failed`);
  };
  let comparedAt = performance.now();
  const claimLoop = new ClaimLoop({
    id: converter.id,
    pollMs: ROUND_MS,
    free: ledger.free,
    async claim() {
      const claim = await claimWhatFits().catch(onError('claim'));
      // Between two claims: what a claim at work has committed looks like a stray attempt until it is answered.
      if (performance.now() - comparedAt >= ROUND_MS) {
        await running.settleStray().catch(onError('settling stray attempts'));
        comparedAt = performance.now();
      }
      return claim ?? { started: 0, left: [], hasOthers: false, isComplete: false };
    },
    send: (wakeUps) => sendWakeUps(db, wakeUps).catch(onError('waking other converters')),
  });
  const channels = {
    [READY_CHANNEL]: (payload: string) => claimLoop.hear(payload),
    [CANCELLED_CHANNEL]: () => void running.abortLost().catch(onError('looking for cancelled jobs')),
  };
  const listener = new WakeListener({
    id: converter.id,
    listen: () => listen(databaseUrl, { name: 'sheetmill-converter', log, channels }),
    onListeners: (ids) => claimLoop.setPeers(ids),
  });
  const heartbeat = new Heartbeat(databaseUrl, converter.id, {
    log,
    onLost: lost.resolve,
    onPeers: (ids) => listener.setPeers(ids),
  });
  const every = (ms: number, doing: string, work: () => Promise<void>) =>
    repeat(ms, () => work().catch(onError(doing)));
  const timers = [
    every(ROUND_MS, 'sending due jobs', () => sendDueJobs(db, queues, closing.signal)),
    every(ROUND_MS, 'maintenance', async () => {
      await heartbeat.refresh();
      await maintain(db, queues, log);
    }),
    every(ROUND_MS, 'continuing changes', () => continueChanges(db, queues, log, closing.signal)),
    every(ADMIT_MS, 'admitting jobs to their keys', () => admitMissed(db)),
    every(TIDY_MS, 'touching the work folder', work.touch),
    every(TIDY_MS, 'tidying up', () => pruneHistory(db, queues, log)),
    every(TIDY_MS, 'retention', () => retention.round(closing.signal)),
    every(SWEEP_STORE_MS, 'sweeping the store', () => sweepStore({ db, store, log }, closing.signal)),
    every(ROUND_MS, 'looking for cancelled jobs', () => running.abortLost()),
  ];
  log.info({ capacity }, 'converter started');

  return {
    id: converter.id,
    lost: lost.promise,
    /** Resolves when the first upload would be converted as fast as later ones. */
    warm: pool.warm(),
    async stop(graceMs: number): Promise<void> {
      closing.abort();
      await claimLoop.drain();
      const grace = setTimeout(() => handBack.abort(), graceMs);
      await running.ended();
      clearTimeout(grace);
      await claimLoop.close();
      await running.settleStray().catch(onError('settling stray attempts'));
      await Promise.all([pool.close(), ...timers.map((stopTimer) => stopTimer())]);
      await work.close().catch(onError('removing the work folder'));
      await heartbeat.close();
      await listener.close();
      await db
        .update(converters)
        .set({ status: 'stopped' })
        .where(and(eq(converters.id, converter.id), eq(converters.status, 'live')))
        .catch(onError('sign-off'));
      log.info('converter stopped');
    },
  };
}

function reportIsolation({ level, layers }: Isolation, log: Logger): void {
  isolationLayers.reset();
  for (const layer of layers) isolationLayers.set({ layer }, 1);
  if (level === 'memory')
    log.warn({ isolation: level }, 'this machine offers no isolation: sandboxes are held to their memory alone');
  else log.info({ isolation: level, layers }, 'sandboxes are isolated');
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
