import { Retention } from '../conversion/retention.ts';
import { sweepStore } from '../conversion/sweep-store.ts';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { sendDueJobs } from '../jobs/due-jobs.ts';
import { admitMissed } from '../jobs/limits.ts';
import { continueChanges, maintain, tidyUp } from '../jobs/maintenance.ts';
import type { Logger } from '../runtime/log.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';
import type { Store } from '../store/store.ts';
import type { WorkFolder } from './files/work-folder.ts';

/** The work that every converter repeats, whether it runs jobs or not. */

const SECOND_MS = 1_000;
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;

export interface PeriodicParts {
  db: Database;
  queues: Queues;
  store: Store;
  work: WorkFolder;
  log: Logger;
  /** Undefined keeps uploads, jobs and events until they are deleted or expire. */
  retentionDays: number | undefined;
  /** Aborted when the converter stops. */
  signal: AbortSignal;
  refreshHeartbeat: () => Promise<void>;
  abortLostAttempts: () => Promise<void>;
  /** Runs a round and logs its error. Never rejects. */
  logErrors: (name: string, round: () => Promise<void>) => Promise<void>;
}

/** Starts all periodic work. Returns the function that ends it, and resolves after the running rounds. */
export function startPeriodicWork(parts: PeriodicParts): () => Promise<void> {
  const { db, queues, store, work, log, signal, logErrors } = parts;
  const retention = new Retention({ db, queues, store, log }, parts.retentionDays);
  const every = (ms: number, name: string, round: () => Promise<void>) => repeat(ms, () => logErrors(name, round));
  const stops = [
    every(SECOND_MS, 'sending due jobs', () => sendDueJobs(db, queues, signal)),
    every(SECOND_MS, 'maintenance', async () => {
      await parts.refreshHeartbeat();
      await maintain(db, queues, log);
    }),
    every(SECOND_MS, 'continuing changes', () => continueChanges(db, queues, log, signal)),
    every(10 * SECOND_MS, 'admitting jobs to their keys', () => admitMissed(db)),
    every(MINUTE_MS, 'touching the work folder', () => work.touch()),
    every(MINUTE_MS, 'deleting history', () => tidyUp(db, queues, log)),
    every(MINUTE_MS, 'retention', () => retention.round(signal)),
    every(6 * HOUR_MS, 'sweeping the store', () => sweepStore({ db, store, log }, signal)),
    every(SECOND_MS, 'looking for cancelled jobs', parts.abortLostAttempts),
  ];
  return async () => {
    await Promise.all(stops.map((stop) => stop()));
  };
}

/** Repeats `work` with a pause of `ms`. Returns the function that ends this, and resolves after the running round. */
function repeat(ms: number, work: () => Promise<void>): () => Promise<void> {
  const stopped = new WakeFlag();
  let isStopped = false;
  const rounds = (async () => {
    while (!isStopped) {
      await work();
      await stopped.wait(ms);
    }
  })();
  return () => {
    isStopped = true;
    stopped.set();
    return rounds;
  };
}
