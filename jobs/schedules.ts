import { randomUUIDv7 } from 'node:crypto';
import { setImmediate as otherWork } from 'node:timers/promises';
import type { Database, Transaction } from '../db/client.ts';
import { findJob, type JobRow } from '../db/jobs.ts';
import { isOutage, postgresCode } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import {
  findUnendedJobs,
  lockDueSchedules,
  lockOwned,
  lockSchedule,
  type RecordedRun,
  readClock,
  recordRuns,
  type Schedule,
  storeSchedule,
} from '../db/schedules.ts';
import { AppError, publicError } from '../runtime/errors.ts';
import { refuseUnholdable } from './capacity.ts';
import { nextRun } from './cron.ts';
import { type NewJob, submitJobs } from './submit.ts';
import { transition } from './transition.ts';

/** Schedules that one transaction runs. */
const BATCH = 100;
/** A run that starts later than this was missed. */
const MAX_LATE_MS = 60_000;
const UNIQUE_VIOLATION = '23505';
/** The class of errors after which a whole transaction may be repeated, such as deadlocks. */
const ROLLED_BACK = /^40/;

type NewSchedule = Pick<Schedule, 'owner' | 'name' | 'cron' | 'timezone' | 'paused' | 'overlap' | 'missed' | 'job'>;

/**
 * Creates or replaces a schedule of its owner. Throws `invalid_request` (400) for a wrong cron expression or time zone,
 * `exceeds_capacity` (422) for a job that no live converter could ever hold, and `too_many_requests` (429) when the owner
 * has `max` others already.
 */
export async function putSchedule(db: Database, schedule: NewSchedule, max: number): Promise<Schedule> {
  const { owner, name, cron, timezone, paused, job } = schedule;
  nextRun(cron, timezone, new Date());
  await refuseUnholdable(db, [job.job.shape]);
  return transition(db, async (tx) => {
    const { count, isNew } = await lockOwned(tx, owner, name);
    if (isNew && count >= max) {
      const message = `schedules: at most ${max} for each owner; delete one first`;
      throw new AppError('too_many_requests', message, { status: 429 });
    }
    const nextRunAt = paused ? null : nextRun(cron, timezone, await readClock(tx));
    return storeSchedule(tx, { ...schedule, id: randomUUIDv7(), nextRunAt });
  });
}

/** A schedule whose time had come, and what became of this run. */
export interface Run {
  schedule: Schedule;
  /** The time that the run was due. */
  dueAt: Date;
  /** Later runs of the schedule begin here; null when that cannot be computed. */
  nextRunAt: Date | null;
  result:
    | { outcome: 'submitted'; job: NewJob & { id: string } }
    /** Not to run: due before the schedule was created, missed, or the previous job has not ended. */
    | { outcome: 'premature' | 'missed' | 'overlapped' }
    | { outcome: 'failed'; error: unknown };
}

/**
 * Submits the jobs of schedules that are due, and moves each to its next run in the same transaction, so that every run
 * is submitted exactly once. Several processes share the work. Gives an empty list when no more are due. The expressions
 * are read one at a time, with other work of this process between them.
 */
export async function runDueSchedules(db: Database, queues: Queues): Promise<Run[]> {
  return transition(db, async (tx) => {
    const due = await lockDueSchedules(tx, BATCH);
    if (due.length === 0) return [];
    const now = await readClock(tx);
    const unended = await findUnendedJobs(tx, due.flatMap(previousJob));
    const wanted: Run[] = [];
    for (const schedule of due) {
      wanted.push(runOf(schedule, now, unended));
      await otherWork();
    }
    const refusals = await submitApart(tx, queues, wanted.flatMap(jobOf));
    const runs = wanted.map((run) => {
      const refusal = jobOf(run).flatMap(({ id }) => refusals.get(id) ?? []);
      return refusal.length === 0 ? run : { ...run, result: { outcome: 'failed' as const, error: refusal[0] } };
    });
    await recordRuns(tx, runs.map(recorded));
    return runs;
  });
}

/**
 * Runs a schedule now, also a paused one, beside its other runs. Gives its job; undefined when the schedule is gone.
 * Throws `conflict` (409) where runs must not overlap and the previous job has not ended.
 */
export async function runScheduleNow(db: Database, queues: Queues, id: string): Promise<JobRow | undefined> {
  return transition(db, async (tx) => {
    const schedule = await lockSchedule(tx, id);
    if (schedule === undefined) return undefined;
    const [running] = await findUnendedJobs(tx, previousJob(schedule));
    if (running !== undefined) {
      const message = `the schedule has overlap "skip", and its previous job ${running} has not ended`;
      throw new AppError('conflict', message, { status: 409 });
    }
    const job = { ...schedule.job.job, owner: schedule.owner, id: `job_${randomUUIDv7()}` };
    await submitJobs(tx, queues, [job]);
    await recordRuns(tx, [
      { id, nextRunAt: schedule.nextRunAt, lastRunAt: await readClock(tx), lastJobId: job.id, lastError: null },
    ]);
    return findJob(tx, job.id);
  });
}

/** Decides what to do with a schedule that is due. */
function runOf(schedule: Schedule, now: Date, unended: Set<string>): Run {
  const { id, owner, cron, timezone, missed, createdAt, nextRunAt, job } = schedule;
  const dueAt = nextRunAt ?? now;
  try {
    const run = { schedule, dueAt, nextRunAt: nextRun(cron, timezone, now) };
    if (dueAt < createdAt) return { ...run, result: { outcome: 'premature' } };
    if (missed === 'skip' && now.getTime() - dueAt.getTime() > MAX_LATE_MS) {
      return { ...run, result: { outcome: 'missed' } };
    }
    if (previousJob(schedule).some((previous) => unended.has(previous))) {
      return { ...run, result: { outcome: 'overlapped' } };
    }
    const jobId = `job_${id}_${dueAt.toISOString().replace(/[-:]|\.\d+/g, '')}`;
    return { ...run, result: { outcome: 'submitted', job: { ...job.job, owner, id: jobId } } };
  } catch (error) {
    return { schedule, dueAt, nextRunAt: null, result: { outcome: 'failed', error } };
  }
}

/** The job that must have ended before the next run, if there is one. */
function previousJob({ overlap, lastJobId }: Schedule): string[] {
  return overlap === 'skip' && lastJobId !== null ? [lastJobId] : [];
}

function jobOf({ result }: Run): (NewJob & { id: string })[] {
  return result.outcome === 'submitted' ? [result.job] : [];
}

/** Submits all jobs but those that are refused; gives the reasons by job. Halves find the few among many with few steps. */
async function submitApart(
  tx: Transaction,
  queues: Queues,
  jobs: (NewJob & { id: string })[],
): Promise<Map<string, unknown>> {
  const [first, ...others] = jobs;
  if (first === undefined) return new Map();
  try {
    await tx.transaction((savepoint) => submitJobs(savepoint, queues, jobs));
    return new Map();
  } catch (error) {
    if (isOutage(error) || ROLLED_BACK.test(postgresCode(error))) throw error;
    if (others.length === 0) return new Map([[first.id, reasonOf(error, first.id)]]);
    const half = Math.ceil(jobs.length / 2);
    const refusals = await submitApart(tx, queues, jobs.slice(0, half));
    return new Map([...refusals, ...(await submitApart(tx, queues, jobs.slice(half)))]);
  }
}

function reasonOf(error: unknown, id: string): unknown {
  return postgresCode(error) === UNIQUE_VIOLATION
    ? new AppError('conflict', `there is another job ${id} already`, { status: 409, cause: error })
    : error;
}

function recorded({ schedule, dueAt, nextRunAt, result }: Run): RecordedRun {
  const { id, lastRunAt, lastJobId, lastError } = schedule;
  switch (result.outcome) {
    case 'submitted':
      return { id, nextRunAt, lastRunAt: dueAt, lastJobId: result.job.id, lastError: null };
    case 'failed':
      return { id, nextRunAt, lastRunAt, lastJobId, lastError: publicError(result.error) };
    default:
      return { id, nextRunAt, lastRunAt, lastJobId, lastError };
  }
}
