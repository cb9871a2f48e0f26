import { and, asc, eq, isNotNull, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobAttempts, jobs } from '../db/schema.ts';
import type { PublicError } from '../runtime/errors.ts';
import { backoffSeconds, hasAttemptsLeft } from './backoff.ts';
import { largestClass } from './capacity.ts';
import { type Child, submitChildren } from './children.ts';
import type { AttemptKey } from './claim.ts';
import { endJobs } from './end.ts';
import type { End, Job } from './job.ts';
import { release } from './release.ts';
import { nextMemoryClass } from './shape.ts';
import { transition } from './transition.ts';

/** The outcome of an attempt. */
export type Outcome =
  | { kind: 'completed'; result: Record<string, unknown> }
  /**
   * The job was split: it waits for these children and ends with the last of them. A child that is split is replaced by its
   * children, which become its siblings. `error` is the reason when an attempt that failed was split.
   */
  | { kind: 'split'; children: Child[]; error?: PublicError }
  /** The reservation was too small: the job runs again with the next class of memory. `spent` counts as a failure. */
  | { kind: 'outgrown'; error: PublicError; spent: boolean; payload?: Record<string, unknown> }
  /** `retryAfterSeconds` replaces the backoff. */
  | { kind: 'failed'; error: PublicError; retryable: boolean; retryAfterSeconds?: number | undefined }
  /** The task has nothing to do yet: the job is scheduled again, and the attempt does not count as a failure. */
  | { kind: 'snoozed'; seconds: number }
  /** The converter gave the job back, which does not count as a failure. `afterSeconds` delays the next attempt. */
  | { kind: 'returned'; afterSeconds?: number };

export interface Settlement {
  attempt: AttemptKey;
  outcome: Outcome;
  peakMemoryMb: number | null;
}

/**
 * Ends attempts in one transaction: their rows, their jobs, and the rows that depend on the jobs. Returns the settlements
 * that took place. An attempt that no longer owns its job, because another process settled or cancelled it, is skipped.
 */
export async function settleAttempts(
  db: Database,
  queues: Queues,
  settlements: Settlement[],
): Promise<Set<Settlement>> {
  const fitting = await withinCapacity(db, settlements);
  return transition(db, async (tx) => {
    const owned = await lockOwned(tx, fitting);
    if (owned.length === 0) return new Set<Settlement>();
    await recordAttempts(tx, owned);
    const results: Result[] = [];
    for (const settlement of owned) results.push(await settle(tx, queues, settlement));
    await endJobs(
      tx,
      queues,
      results.flatMap((result) => (result.kind === 'ended' ? [result] : [])),
    );
    const returned = results.flatMap((result) => (result.kind === 'returned' ? [result.id] : []));
    await release(tx, queues, returned, { keepPlace: true });
    return new Set(owned.map(({ original }) => original));
  });
}

/** A settlement whose outcome was limited to the capacity of the converters. */
interface Fitting extends Settlement {
  /** The settlement as the caller gave it. */
  original: Settlement;
  /** The next class of memory for a job that has outgrown its own; undefined without one. */
  grownMb?: number;
}

type Owned = Fitting & { job: Job };

/** The remaining work of a settlement: the job ends, returns to the queue, or waits. */
type Result = ({ kind: 'ended' } & End) | { kind: 'returned'; id: string } | { kind: 'waits' };

const WAITS: Result = { kind: 'waits' };

async function settle(tx: Transaction, queues: Queues, { job, outcome, grownMb }: Owned): Promise<Result> {
  switch (outcome.kind) {
    case 'completed':
      return { kind: 'ended', job, status: 'completed', result: outcome.result };
    case 'split':
      await split(tx, queues, job, outcome);
      if (job.parentId === null) return WAITS;
      return { kind: 'ended', job, status: 'completed', result: { parts: outcome.children.length } };
    case 'failed':
      return settleFailed(tx, job, outcome);
    case 'outgrown':
      if (grownMb !== undefined) {
        await tx.update(jobs).set({ memoryMb: grownMb, payload: outcome.payload }).where(eq(jobs.id, job.id));
      }
      if (outcome.spent) return settleFailed(tx, job, { error: outcome.error, retryable: true });
      if (grownMb !== undefined) return { kind: 'returned', id: job.id };
      return { kind: 'ended', job, status: 'failed', error: outcome.error };
    case 'snoozed':
      await runLater(tx, job, outcome.seconds, { status: 'scheduled' });
      return WAITS;
    case 'returned':
      if (outcome.afterSeconds === undefined) return { kind: 'returned', id: job.id };
      await runLater(tx, job, outcome.afterSeconds, { status: 'retrying' });
      return WAITS;
    default:
      return outcome satisfies never;
  }
}

async function settleFailed(
  tx: Transaction,
  job: Job,
  { error, retryable, retryAfterSeconds }: Omit<Outcome & { kind: 'failed' }, 'kind'>,
): Promise<Result> {
  if (!retryable || !hasAttemptsLeft(job)) return { kind: 'ended', job, status: 'failed', error };
  const failures = job.failures + 1;
  await runLater(tx, job, retryAfterSeconds ?? backoffSeconds(job), { status: 'retrying', failures, error });
  return WAITS;
}

async function runLater(
  tx: Transaction,
  job: Job,
  seconds: number,
  change: { status: 'scheduled' | 'retrying'; failures?: number; error?: PublicError },
): Promise<void> {
  await tx
    .update(jobs)
    .set({ ...change, converterId: null, dueAt: sql`now() + make_interval(secs => ${seconds})` })
    .where(eq(jobs.id, job.id));
}

/**
 * Locks the running jobs of these attempts in the order of their ids. A job that waits for its children is not running, and
 * the second settlement of an attempt is skipped.
 */
async function lockOwned(tx: Transaction, settlements: Fitting[]): Promise<Owned[]> {
  const ids = settlements.map(({ attempt }) => attempt.id);
  const locked = await tx
    .select()
    .from(jobs)
    .where(and(sql`${jobs.id} = any(${sql.param(ids)})`, eq(jobs.status, 'running'), isNotNull(jobs.converterId)))
    .orderBy(asc(jobs.id))
    .for('update');
  const running = new Map(locked.map((job) => [job.id, job]));
  return settlements.flatMap((settlement) => {
    const job = running.get(settlement.attempt.id);
    if (job?.attempt !== settlement.attempt.attempt) return [];
    running.delete(job.id);
    return [{ ...settlement, job }];
  });
}

/**
 * Limits new reservations to those that a live converter can hold: children reserve at most the memory of the largest
 * converter, and a job that has outgrown its class gets the next one, unless its own is the largest.
 */
async function withinCapacity(db: Database, settlements: Settlement[]): Promise<Fitting[]> {
  const grows = settlements.some(({ outcome }) => outcome.kind === 'split' || outcome.kind === 'outgrown');
  const maxMb = grows ? await largestClass(db) : Number.POSITIVE_INFINITY;
  return settlements.map((settlement) => ({ ...settlement, original: settlement, ...limitTo(maxMb, settlement) }));
}

function limitTo(maxMb: number, { attempt, outcome }: Settlement): Partial<Fitting> {
  if (outcome.kind === 'split') {
    const children = outcome.children.map((child) => {
      const memoryMb = Math.min(child.shape.memoryMb, maxMb);
      return { ...child, shape: { ...child.shape, memoryMb } };
    });
    return { outcome: { ...outcome, children } };
  }
  if (outcome.kind !== 'outgrown') return {};
  const grownMb = nextMemoryClass(attempt.memoryMb);
  if (grownMb !== undefined && grownMb <= maxMb) return { grownMb };
  const { code, message } = outcome.error;
  const allowed = `${message}; it had ${attempt.memoryMb} MB, and no converter allows more than ${maxMb} MB`;
  return { outcome: { ...outcome, error: { code, message: allowed } } };
}

/** Ends the rows of the attempts, and counts them for each converter and minute. */
async function recordAttempts(tx: Transaction, owned: Owned[]): Promise<void> {
  const rows = owned.map(({ job, outcome, peakMemoryMb }) => ({
    job_id: job.id,
    attempt: job.attempt,
    status: attemptStatus(outcome),
    peak: peakMemoryMb,
    error: 'error' in outcome ? outcome.error : null,
  }));
  await tx.execute(sql`
    with ended as (
      update job_attempts set status = x.status, peak_memory_mb = x.peak, error = x.error, finished_at = now()
      from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as x(job_id text, attempt int, status text, peak int, error jsonb)
      where job_attempts.job_id = x.job_id and job_attempts.attempt = x.attempt
      returning converter_id, job_attempts.status, peak_memory_mb)
    insert into throughput (minute, converter_id, completed, failed, peak_memory_mb)
    select date_trunc('minute', now()), converter_id, count(*) filter (where status = 'completed'), count(*) filter (where status = 'failed'), max(peak_memory_mb)
    from ended group by converter_id
    on conflict (minute, converter_id) do update set
      completed = throughput.completed + excluded.completed, failed = throughput.failed + excluded.failed,
      peak_memory_mb = greatest(throughput.peak_memory_mb, excluded.peak_memory_mb)`);
}

function attemptStatus(outcome: Outcome): 'completed' | 'failed' | 'returned' | 'snoozed' {
  if (outcome.kind === 'split') return outcome.error ? 'failed' : 'completed';
  return outcome.kind === 'outgrown' ? 'failed' : outcome.kind;
}

/** A split job waits for its children. A child that is split gets siblings instead. */
async function split(
  tx: Transaction,
  queues: Queues,
  job: Job,
  { children, error }: Outcome & { kind: 'split' },
): Promise<void> {
  const waiting =
    job.parentId === null
      ? { pendingChildren: sql`${children.length}`, converterId: null }
      : { pendingChildren: sql`${jobs.pendingChildren} + ${children.length}` };
  await tx
    .update(jobs)
    .set(waiting)
    .where(eq(jobs.id, job.parentId ?? job.id));
  await submitChildren(tx, queues, job, children, error && job.attempt);
}

/**
 * True if an attempt ended with this outcome: a settlement whose answer was lost has taken place. Other processes end
 * attempts only as cancelled, lost or overdue.
 */
export async function isSettledAs(db: Database, { attempt, outcome }: Settlement): Promise<boolean> {
  const [row] = await db
    .select({ status: jobAttempts.status, error: jobAttempts.error })
    .from(jobAttempts)
    .where(and(eq(jobAttempts.jobId, attempt.id), eq(jobAttempts.attempt, attempt.attempt)));
  const code = 'error' in outcome ? outcome.error?.code : undefined;
  return row?.status === attemptStatus(outcome) && row.error?.code === code;
}
