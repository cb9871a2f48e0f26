import { and, asc, eq, isNotNull, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import type { PublicError } from '../runtime/errors.ts';
import { largestClass } from './capacity.ts';
import { type Child, submitChildren } from './children.ts';
import type { AttemptKey, Job } from './claim.ts';
import { type End, endJobs } from './end.ts';
import { release } from './ready.ts';
import { nextMemoryClass } from './shape.ts';
import { transition } from './transition.ts';

/** How an attempt ended. */
export type Outcome =
  | { kind: 'completed'; result: Record<string, unknown> }
  /**
   * The job was split: it waits for these children and ends with the last of them. A part of another job is replaced by
   * its own children, as further parts of that job. `error` says why an attempt that failed was split.
   */
  | { kind: 'split'; children: Child[]; error?: PublicError }
  /** Its reservation was too small: it runs again with `payload` and the next class of memory, `spent` with a try less. */
  | { kind: 'outgrown'; error: PublicError; spent: boolean; payload?: Record<string, unknown> }
  /** Unless `retryAfterSeconds` is given, a retry waits out its backoff. */
  | { kind: 'failed'; error: PublicError; retryable: boolean; retryAfterSeconds?: number | undefined }
  /** The task has nothing to do yet: the job is scheduled again, and the attempt is not spent. */
  | { kind: 'snoozed'; seconds: number }
  /** Handed back by its converter: the attempt is not spent. `afterSeconds` delays the next one. */
  | { kind: 'returned'; afterSeconds?: number };

export interface Settlement {
  attempt: AttemptKey;
  outcome: Outcome;
  peakMemoryMb: number | null;
}

const MAX_DELAY_SECONDS = 3_600;

/**
 * Ends attempts in one transaction, which many may share: their jobs, attempts, and what hangs on the jobs. Gives those
 * that it settled; an attempt that no longer owns its job (somebody else has settled or cancelled it) is not among them,
 * and nothing of it is written.
 */
export async function settleAttempts(
  db: Database,
  queues: Queues,
  settlements: Settlement[],
): Promise<Set<Settlement>> {
  const fitting = await withinCapacity(db, settlements);
  return transition(db, async (tx) => {
    const locked = await lockRunning(
      tx,
      settlements.map(({ attempt }) => attempt.id),
    );
    const owned = fitting.flatMap((settlement, index) => {
      const job = locked.get(settlement.attempt.id);
      const original = settlements[index];
      if (job?.attempt !== settlement.attempt.attempt || original === undefined) return [];
      // A second settlement of the same attempt finds it settled.
      locked.delete(job.id);
      return [{ job, original, ...settlement }];
    });
    if (owned.length === 0) return new Set<Settlement>();
    await recordAttempts(tx, owned);
    const returned: string[] = [];
    const ends: End[] = [];
    for (const { job, outcome, grownMb } of owned) {
      switch (outcome.kind) {
        case 'completed':
          ends.push({ job, status: 'completed', result: outcome.result });
          break;
        case 'split':
          await split(tx, queues, job, outcome);
          if (job.parentId !== null)
            ends.push({ job, status: 'completed', result: { parts: outcome.children.length } });
          break;
        case 'failed':
          if (outcome.retryable && mayRetry(job)) await retryLater(tx, job, outcome.error, outcome.retryAfterSeconds);
          else ends.push({ job, status: 'failed', error: outcome.error });
          break;
        case 'outgrown':
          if (grownMb !== undefined) {
            await tx.update(jobs).set({ memoryMb: grownMb, payload: outcome.payload }).where(eq(jobs.id, job.id));
          }
          if (outcome.spent && mayRetry(job)) await retryLater(tx, job, outcome.error);
          else if (!outcome.spent && grownMb !== undefined) returned.push(job.id);
          else ends.push({ job, status: 'failed', error: outcome.error });
          break;
        case 'snoozed':
          await snooze(tx, job, outcome.seconds);
          break;
        case 'returned':
          if (outcome.afterSeconds === undefined) returned.push(job.id);
          else await runLater(tx, job, outcome.afterSeconds);
          break;
        default:
          outcome satisfies never;
      }
    }
    await endJobs(tx, queues, ends);
    await release(tx, queues, returned, { keepPlace: true });
    return new Set(owned.map(({ original }) => original));
  });
}

/** The running jobs among these, locked in the order of their ids; not those that wait for their children. */
async function lockRunning(tx: Transaction, ids: string[]): Promise<Map<string, Job>> {
  const locked = await tx
    .select()
    .from(jobs)
    .where(and(sql`${jobs.id} = any(${sql.param(ids)})`, eq(jobs.status, 'running'), isNotNull(jobs.converterId)))
    .orderBy(asc(jobs.id))
    .for('update');
  return new Map(locked.map((job) => [job.id, job]));
}

function mayRetry(job: Job): boolean {
  return job.failures + 1 < job.maxAttempts;
}

/**
 * Nothing is queued that no live converter could hold: children reserve at most the largest converter's memory, and
 * `grownMb` is the next class for what outgrew its own, unless that was the largest.
 */
async function withinCapacity(db: Database, settlements: Settlement[]): Promise<(Settlement & { grownMb?: number })[]> {
  if (settlements.every(({ outcome }) => outcome.kind !== 'split' && outcome.kind !== 'outgrown')) return settlements;
  const most = await largestClass(db);
  return settlements.map((settlement) => {
    const { attempt, outcome } = settlement;
    if (outcome.kind === 'split') {
      const fit = (child: Child) => {
        const memoryMb = Math.min(child.shape.memoryMb, most);
        return { ...child, shape: { ...child.shape, memoryMb } };
      };
      return { ...settlement, outcome: { ...outcome, children: outcome.children.map(fit) } };
    }
    if (outcome.kind !== 'outgrown') return settlement;
    const grownMb = nextMemoryClass(attempt.memoryMb);
    if (grownMb !== undefined && grownMb <= most) return { ...settlement, grownMb };
    const { code, message } = outcome.error;
    const allowed = `${message}; it had ${attempt.memoryMb} MB, and no converter allows more than ${most} MB`;
    return { ...settlement, outcome: { ...outcome, error: { code, message: allowed } } };
  });
}

/** The attempts' own rows, and the count of what each converter has done in this minute. */
async function recordAttempts(tx: Transaction, owned: (Settlement & { job: Job })[]): Promise<void> {
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

export function attemptStatus(outcome: Outcome): 'completed' | 'failed' | 'returned' | 'snoozed' {
  if (outcome.kind === 'split') return outcome.error ? 'failed' : 'completed';
  return outcome.kind === 'outgrown' ? 'failed' : outcome.kind;
}

/** A split job waits for its children; of one that is itself a child, they are further siblings. */
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

async function snooze(tx: Transaction, job: Job, seconds: number): Promise<void> {
  await tx
    .update(jobs)
    .set({ status: 'scheduled', converterId: null, dueAt: sql`now() + make_interval(secs => ${seconds})` })
    .where(eq(jobs.id, job.id));
}

/**
 * Backoff grows with each attempt spent; jitter spreads what failed together over the second half of the delay.
 * @param afterSeconds overrides the backoff
 */
async function retryLater(tx: Transaction, job: Job, error: PublicError, afterSeconds?: number): Promise<void> {
  const delay = Math.min(job.initialDelaySeconds * job.backoffMultiplier ** job.failures, MAX_DELAY_SECONDS);
  await runLater(tx, job, afterSeconds ?? delay * (0.5 + Math.random() / 2), { failures: job.failures + 1, error });
}

async function runLater(
  tx: Transaction,
  job: Job,
  seconds: number,
  failed?: { failures: number; error: PublicError },
): Promise<void> {
  const dueAt = sql`now() + make_interval(secs => ${seconds})`;
  await tx
    .update(jobs)
    .set({ status: 'retrying', converterId: null, dueAt, ...failed })
    .where(eq(jobs.id, job.id));
}
