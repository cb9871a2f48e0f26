import type { Database } from '../../db/client.ts';
import type { Queues } from '../../db/queues.ts';
import { millisecondsToNextRun } from '../../db/schedules.ts';
import { type Run, runDueSchedules } from '../../jobs/schedules.ts';
import type { Logger } from '../../runtime/log.ts';
import { WakeFlag } from '../../runtime/wake-flag.ts';
import { scheduleRuns } from '../operations/metrics.ts';

/** A schedule that another process creates is seen after this time at most. */
const MAX_SLEEP_MS = 1_000;

export interface ScheduleRunner {
  /** Stops after the runs that it is about to submit. */
  close(): Promise<void>;
}

/** Runs the schedules that are due until it is closed. Each API process does; they share the work. */
export function followSchedules(db: Database, queues: Queues, log: Logger): ScheduleRunner {
  const wake = new WakeFlag();
  let isClosed = false;

  async function follow(): Promise<void> {
    while (!isClosed) {
      const sleepMs = await runDue().catch((error) => {
        log.warn({ err: error }, 'schedules could not be run; trying again');
        return MAX_SLEEP_MS;
      });
      if (!isClosed && sleepMs > 0) await wake.wait(sleepMs);
    }
  }

  /** Gives how long there is nothing to do. */
  async function runDue(): Promise<number> {
    const dueInMs = await millisecondsToNextRun(db);
    if (dueInMs === undefined || dueInMs > 0) return Math.min(dueInMs ?? MAX_SLEEP_MS, MAX_SLEEP_MS);
    const runs = await runDueSchedules(db, queues);
    for (const run of runs) report(run, log);
    // Those that are due are locked by another process, which is running them.
    return runs.length === 0 ? MAX_SLEEP_MS : 0;
  }

  const following = follow();
  return {
    async close() {
      isClosed = true;
      wake.set();
      await following;
    },
  };
}

function report({ schedule, dueAt, nextRunAt, result }: Run, log: Logger): void {
  const { outcome } = result;
  if (outcome !== 'premature') scheduleRuns.inc({ outcome });
  const line = { schedule: schedule.name, owner: schedule.owner ?? undefined, dueAt, nextRunAt, outcome };
  if (result.outcome === 'failed') log.error({ ...line, err: result.error }, 'run of a schedule not submitted');
  else if (result.outcome === 'submitted') log.info({ ...line, job: result.job.id }, 'run of a schedule submitted');
  else log.info(line, 'run of a schedule skipped');
}
