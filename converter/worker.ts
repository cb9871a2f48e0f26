import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { and, eq } from 'drizzle-orm';
import type { Tasks } from '../conversion/registry.ts';
import type { Database } from '../db/client.ts';
import { listen } from '../db/listen.ts';
import type { Queues } from '../db/queues.ts';
import { overdueSeconds } from '../db/retention.ts';
import { converters } from '../db/schema.ts';
import { type ClaimedJob, ConverterLost, claimJobs } from '../jobs/claim.ts';
import { registerJobTypes } from '../jobs/register-types.ts';
import type { Settlement } from '../jobs/settle.ts';
import { CANCELLED_CHANNEL, READY_CHANNEL, sendWakeUps } from '../jobs/wake.ts';
import type { Config } from '../runtime/config.ts';
import type { Logger } from '../runtime/log.ts';
import { traceIdIn } from '../runtime/tracing.ts';
import type { Store } from '../store/store.ts';
import { ClaimLoop, type Found } from './claim-loop.ts';
import { executeJob } from './executor.ts';
import { openWorkFolder, type WorkFolder } from './files/work-folder.ts';
import { Heartbeat } from './heartbeat.ts';
import { isolationLayers, jobWait, watchReservations, watchRetention } from './metrics.ts';
import { startPeriodicWork } from './periodic-work.ts';
import { Reservations } from './reservations.ts';
import { RunningAttempts } from './running-attempts.ts';
import { compiledCodeFolder, compileSandboxCode } from './sandbox/compiled-code.ts';
import { detectIsolation } from './sandbox/isolation/detect.ts';
import type { Isolation } from './sandbox/isolation/isolation.ts';
import { startOrphanReaper } from './sandbox/orphan-reaper.ts';
import { SandboxPool } from './sandbox/pool.ts';
import { settleInBatches } from './settle-in-batches.ts';
import type { TaskRunner } from './task-runner.ts';
import { TrustedRunner } from './trusted-runner.ts';
import { WakeListener } from './wake-listener.ts';

const POLL_MS = 1_000;

export interface WorkerParts {
  db: Database;
  databaseUrl: string;
  queues: Queues;
  store: Store;
  tasks: Tasks;
  config: Config;
  log: Logger;
}

/** The parts that are opened before the first claim. */
interface Opened {
  id: string;
  name: string;
  work: WorkFolder;
  reservations: Reservations;
  pool: SandboxPool;
}

/** Starts a worker under a new id. Throws, and leaves nothing behind, when Postgres is unavailable. */
export async function startWorker(parts: WorkerParts): Promise<Worker> {
  const { db, tasks, config } = parts;
  const id = randomUUID();
  const name = `${hostname()}-${process.pid}`;
  const log = parts.log.child({ converter: id });
  await registerJobTypes(db, tasks.values());
  const work = await openWorkFolder(config);
  try {
    const isolation = await detectIsolation({ foldersIn: work.path });
    reportIsolation(isolation, log);
    const { level, layers } = isolation;
    const reservations = new Reservations({ cpuUnits: config.CAPACITY_CPU, memoryMb: config.CAPACITY_MEMORY_MB });
    await db.insert(converters).values({ id, name, ...reservations.capacity, isolation: { level, layers } });
    watchReservations(reservations);
    watchRetention(() => overdueSeconds(db, config.RETENTION_DAYS));
    const pool = await openPool(config, isolation, work.path, reservations, log);
    return new Worker({ ...parts, log }, { id, name, work, reservations, pool });
  } catch (error) {
    await work.close();
    throw error;
  }
}

async function openPool(
  config: Config,
  isolation: Isolation,
  workFolder: string,
  reservations: Reservations,
  log: Logger,
): Promise<SandboxPool> {
  return new SandboxPool({
    keep: reservations.capacity.cpuUnits,
    roomMb: () => reservations.free().memoryMb,
    workFolder,
    cacheFolder: compiledCodeFolder(config.DATA_DIR),
    tasksModule: config.TASKS,
    hidden: [config.DATA_DIR],
    isolation,
    orphans: isolation.namespaces === 'none' ? await startOrphanReaper() : null,
    reuse: config.SANDBOX_REUSE,
    log,
  });
}

/** A running converter: claims jobs that fit its free capacity, runs them, and settles them. The owner calls `stop()`. */
export class Worker {
  readonly id: string;
  /** Resolves when other converters have declared this one lost. The owner then calls `stop(0)` and starts another. */
  readonly lost: Promise<void>;
  /** Resolves when the sandboxes are warmed up. */
  readonly warm: Promise<void>;
  readonly #parts: WorkerParts;
  readonly #opened: Opened;
  readonly #settle: (settlement: Settlement) => Promise<boolean>;
  readonly #attempts: RunningAttempts;
  readonly #claimLoop: ClaimLoop;
  readonly #listener: WakeListener;
  readonly #heartbeat: Heartbeat;
  readonly #stopPeriodicWork: () => Promise<void>;
  /** Aborted to return running jobs to the queue. */
  readonly #returnJobs = new AbortController();
  /** Aborted when the stop begins. */
  readonly #closing = new AbortController();
  readonly #declareLost: () => void;
  #straySettledAt = performance.now();

  constructor(parts: WorkerParts, opened: Opened) {
    const { db, databaseUrl, queues, store, config, log } = parts;
    const { id, pool, work, reservations } = opened;
    const lost = Promise.withResolvers<void>();
    this.id = id;
    this.lost = lost.promise;
    this.#declareLost = lost.resolve;
    this.#parts = parts;
    this.#opened = opened;
    this.#settle = settleInBatches(db, queues);
    this.#attempts = new RunningAttempts({ db, converterId: id, settle: this.#settle, log });
    this.#compileSandboxCode();
    this.#claimLoop = new ClaimLoop({
      id,
      pollMs: POLL_MS,
      free: () => reservations.free(),
      claim: () => this.#claimAndSettleStray(),
      send: (wakeUps) => this.#logErrors('waking other converters', () => sendWakeUps(db, wakeUps)),
    });
    this.#listener = new WakeListener({
      id,
      listen: () => listen(databaseUrl, { name: 'sheetmill-converter', log, channels: this.#channels() }),
      onListeners: (ids) => this.#claimLoop.setPeers(ids),
    });
    this.#heartbeat = new Heartbeat(databaseUrl, id, {
      log,
      onLost: this.#declareLost,
      onPeers: (ids) => this.#listener.setPeers(ids),
    });
    this.#stopPeriodicWork = startPeriodicWork({
      ...{ db, queues, store, work, log },
      retentionDays: config.RETENTION_DAYS,
      signal: this.#closing.signal,
      refreshHeartbeat: () => this.#heartbeat.refresh(),
      abortLostAttempts: () => this.#attempts.abortLost(),
      logErrors: (name, run) => this.#logErrors(name, run),
    });
    this.warm = pool.warm();
    log.info({ capacity: reservations.capacity }, 'converter started');
  }

  /** Claims no more jobs, waits up to the grace period for running ones, and returns the rest to the queue. */
  async stop(graceMs: number): Promise<void> {
    const { pool, work } = this.#opened;
    this.#closing.abort();
    await this.#claimLoop.drain();
    const grace = setTimeout(() => this.#returnJobs.abort(), graceMs);
    await this.#attempts.ended();
    clearTimeout(grace);
    await this.#claimLoop.close();
    await this.#logErrors('settling stray attempts', () => this.#attempts.settleStray());
    await Promise.all([pool.close(), this.#stopPeriodicWork()]);
    await this.#logErrors('removing the work folder', () => work.close());
    await this.#heartbeat.close();
    await this.#listener.close();
    await this.#logErrors('marking the converter as stopped', () => this.#markStopped());
    this.#parts.log.info('converter stopped');
  }

  async #claimAndSettleStray(): Promise<Found> {
    const claim = await this.#logErrors('claim', () => this.#claim());
    // Between two claims: the jobs of a running claim look like stray attempts until its answer arrives.
    if (performance.now() - this.#straySettledAt >= POLL_MS) {
      await this.#logErrors('settling stray attempts', () => this.#attempts.settleStray());
      this.#straySettledAt = performance.now();
    }
    return claim ?? { started: 0, left: [], hasOthers: false, isComplete: false };
  }

  async #claim(): Promise<Found> {
    const { db, queues, tasks } = this.#parts;
    const { id, name, reservations, pool } = this.#opened;
    const { capacity } = reservations;
    const types = [...tasks.keys()];
    const claim = await claimJobs(db, queues, { id, name, capacity, types, running: reservations.list() });
    for (const job of claim.started) this.#startJob(job);
    if (claim.started.length > 0) void pool.makeRoom();
    return { ...claim, started: claim.started.length };
  }

  #startJob(job: ClaimedJob): void {
    const { db, store, tasks, config, log } = this.#parts;
    const { work, reservations, pool } = this.#opened;
    jobWait.observe({ type: job.type }, job.waitedSeconds);
    const { id, attempt, uploadId, traceparent } = job;
    const jobLog = log.child({ job: id, attempt, upload: uploadId ?? undefined, trace: traceIdIn(traceparent) });
    const releaseReservation = reservations.reserve(job, job.timeoutSeconds);
    const runner = this.#runnerFor(job, jobLog);
    const lost = new AbortController();
    const parts = { db, store, tasks, settle: this.#settle, config, workFolder: work.path, log: jobLog };
    this.#attempts.begin(job, lost, async (onWait) => {
      try {
        await executeJob(parts, job, { runner, stop: this.#returnJobs.signal, lost, onWait });
      } finally {
        await runner.release();
        releaseReservation();
        pool.refill();
        this.#claimLoop.jobEnded();
      }
    });
  }

  #runnerFor(job: ClaimedJob, jobLog: Logger): TaskRunner {
    const { work, pool } = this.#opened;
    const task = this.#parts.tasks.get(job.type);
    return task?.trusted ? new TrustedRunner(task, work.path, jobLog) : pool.lease(job.memoryMb, job.owner, jobLog);
  }

  #channels(): Record<string, (payload: string) => void> {
    return {
      [READY_CHANNEL]: (payload) => this.#claimLoop.notify(payload),
      [CANCELLED_CHANNEL]: () => void this.#logErrors('looking for cancelled jobs', () => this.#attempts.abortLost()),
    };
  }

  #compileSandboxCode(): void {
    const { config, log } = this.#parts;
    const { signal } = this.#closing;
    compileSandboxCode(compiledCodeFolder(config.DATA_DIR), config.TASKS, signal).catch((error) => {
      if (!signal.aborted) log.warn({ err: error }, 'sandbox code could not be compiled: sandboxes start slowly');
    });
  }

  async #markStopped(): Promise<void> {
    await this.#parts.db
      .update(converters)
      .set({ status: 'stopped' })
      .where(and(eq(converters.id, this.id), eq(converters.status, 'live')));
  }

  /** Logs an error of work that will be repeated. Never rejects. */
  async #logErrors<Result>(name: string, work: () => Promise<Result>): Promise<Result | undefined> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof ConverterLost) this.#declareLost();
      else this.#parts.log.warn({ err: error }, `${name} failed`);
      return undefined;
    }
  }
}

function reportIsolation({ level, layers }: Isolation, log: Logger): void {
  isolationLayers.reset();
  for (const layer of layers) isolationLayers.set({ layer }, 1);
  if (level === 'memory')
    log.warn({ isolation: level }, 'this machine offers no isolation: only the memory of sandboxes is limited');
  else log.info({ isolation: level, layers }, 'sandboxes are isolated');
}
