import type { Database } from '../../db/client.ts';
import type { Queues } from '../../db/queues.ts';
import { millisecondsToNextRun } from '../../db/schedules.ts';
import { type Run, runDueSchedules } from '../../jobs/schedules.ts';
import type { Logger } from '../../runtime/log.ts';
import { WakeFlag } from '../../runtime/wake-flag.ts';
import { scheduleRuns } from '../operations/metrics.ts';

/** The longest delay until a schedule that another process creates is seen. */
const MAX_SLEEP_MS = 1_000;

export interface ScheduleRunner {
  /** Stops after the current runs are submitted. */
  close(): Promise<void>;
}

/** Runs due schedules until it is closed. All API processes do so and share the work. */
export function followSchedules(db: Database, queues: Queues, log: Logger): ScheduleRunner {
  const wake = new WakeFlag();
  let isClosed = false;

  async function follow(): Promise<void> {
    while (!isClosed) {
      const sleepMs = await runDue().catch((error) => {
        log.warn({ err: error }, 'due schedules could not be run; trying again');
        return MAX_SLEEP_MS;
      });
      if (!isClosed && sleepMs > 0) await wake.wait(sleepMs);
    }
  }

  /** Gives the milliseconds until the next run may be due. */
  async function runDue(): Promise<number> {
    const dueInMs = await millisecondsToNextRun(db);
    if (dueInMs === undefined || dueInMs > 0) return Math.min(dueInMs ?? MAX_SLEEP_MS, MAX_SLEEP_MS);
    const runs = await runDueSchedules(db, queues);
    for (const run of runs) report(run, log);
    // Another process has locked the due schedules and runs them.
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
  if (result.outcome === 'failed') log.error({ ...line, err: result.error }, 'scheduled job could not be submitted');
  else if (result.outcome === 'submitted') log.info({ ...line, job: result.job.id }, 'scheduled job submitted');
  else log.info(line, 'scheduled run skipped');
}
