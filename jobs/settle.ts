import { and, asc, eq, inArray, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import type { PublicError } from '../errors.ts';
import type { AttemptKey, Job } from './claim.ts';
import { type End, endJobs } from './end.ts';
import { release } from './ready.ts';
import { queueName } from './shape.ts';
import { ensureQueues, type NewJob, submitJobs } from './submit.ts';
import { transition } from './transition.ts';

/** How an attempt ended. */
export type Outcome =
  | { kind: 'completed'; result: Record<string, unknown> }
  /** The job was split: it waits for these children and ends with the last of them. */
  | { kind: 'split'; children: Pick<NewJob, 'type' | 'payload' | 'shape'>[] }
  | { kind: 'failed'; error: PublicError; retryable: boolean }
  /** Handed back by a converter that stops: the attempt is not spent. */
  | { kind: 'returned' };

export interface Settlement {
  attempt: AttemptKey;
  outcome: Outcome;
  peakMemoryMb: number | null;
}

const LONGEST_DELAY_SECONDS = 3_600;

/**
 * Ends attempts in one transaction, which many may share: their pg-boss jobs, jobs, attempts, and what hangs on the jobs.
 * Gives the queue ids of those that it settled; an attempt that no longer owns its job (somebody else has settled or
 * cancelled it) is not among them, and nothing of it is written.
 */
export async function settleAttempts(db: Database, queues: Queues, settlements: Settlement[]): Promise<Set<string>> {
  const byQueueId = new Map(settlements.map((settlement) => [settlement.attempt.queueId, settlement]));
  await ensureQueues(
    queues,
    settlements.flatMap(({ outcome }) => (outcome.kind === 'split' ? outcome.children.map(({ shape }) => shape) : [])),
  );
  return transition(db, async (tx) => {
    const attempts = settlements.map(({ attempt }) => attempt);
    for (const [name, group] of Map.groupBy(attempts, queueName)) {
      await queues.remove(
        tx,
        name,
        group.map(({ queueId }) => queueId),
      );
    }
    const locked = await tx
      .select()
      .from(jobs)
      .where(and(inArray(jobs.queueId, [...byQueueId.keys()]), eq(jobs.status, 'running')))
      .orderBy(asc(jobs.id))
      .for('update');
    const owned = locked.flatMap((job) => {
      const settlement = byQueueId.get(job.queueId as string);
      return settlement?.attempt.attempt === job.attempt ? [{ job, ...settlement }] : [];
    });
    if (owned.length === 0) return new Set<string>();
    await recordAttempts(tx, owned);
    await endJobs(
      tx,
      queues,
      owned.flatMap(({ job, outcome }): End[] => {
        if (outcome.kind === 'completed') return [{ job, status: 'completed', result: outcome.result }];
        if (outcome.kind === 'failed' && !mayRetry(job, outcome))
          return [{ job, status: 'failed', error: outcome.error }];
        return [];
      }),
    );
    for (const { job, outcome } of owned) {
      if (outcome.kind === 'split') await awaitChildren(tx, queues, job, outcome.children);
      if (outcome.kind === 'failed' && mayRetry(job, outcome)) await retryLater(tx, job, outcome.error);
    }
    await release(
      tx,
      queues,
      owned.filter(({ outcome }) => outcome.kind === 'returned').map(({ job }) => job.id),
    );
    return new Set(owned.map(({ attempt }) => attempt.queueId));
  });
}

function mayRetry(job: Job, { retryable }: { retryable: boolean }): boolean {
  return retryable && job.failures + 1 < job.maxAttempts;
}

/** The attempts' own rows, and the count of what each converter has done in this minute. */
async function recordAttempts(tx: Transaction, owned: (Settlement & { job: Job })[]): Promise<void> {
  const rows = owned.map(({ job, outcome, peakMemoryMb }) => ({
    job_id: job.id,
    attempt: job.attempt,
    status: outcome.kind === 'split' ? 'completed' : outcome.kind,
    peak: peakMemoryMb,
    error: outcome.kind === 'failed' ? outcome.error : null,
  }));
  await tx.execute(sql`
    with ended as (
      update job_attempts set status = x.status, peak_memory_mb = x.peak, error = x.error, finished_at = now()
      from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as x(job_id text, attempt int, status text, peak int, error jsonb)
      where job_attempts.job_id = x.job_id and job_attempts.attempt = x.attempt
      returning converter_id, job_attempts.status)
    insert into throughput (minute, converter_id, completed, failed)
    select date_trunc('minute', now()), converter_id, count(*) filter (where status = 'completed'), count(*) filter (where status = 'failed')
    from ended group by converter_id
    on conflict (minute, converter_id) do update set
      completed = throughput.completed + excluded.completed, failed = throughput.failed + excluded.failed`);
}

/** Queues the children of a split job. Each yields one second of virtual arrival to what came in since: big files do not block small ones. */
async function awaitChildren(
  tx: Transaction,
  queues: Queues,
  job: Job,
  children: Pick<NewJob, 'type' | 'payload' | 'shape'>[],
): Promise<void> {
  await tx
    .update(jobs)
    .set({ queueId: null, converterId: null, pendingChildren: children.length })
    .where(eq(jobs.id, job.id));
  await submitJobs(
    tx,
    queues,
    children.map((child, index) => ({
      ...child,
      priority: job.priority,
      owner: job.owner,
      uploadId: job.uploadId,
      original: job.original,
      parentId: job.id,
      maxAttempts: job.maxAttempts,
      initialDelaySeconds: job.initialDelaySeconds,
      backoffMultiplier: job.backoffMultiplier,
      timeoutSeconds: job.timeoutSeconds,
      rank: job.rank - index,
    })),
  );
}

/** Backoff grows with each attempt spent; jitter spreads what failed together over the second half of the delay. */
async function retryLater(tx: Transaction, job: Job, error: PublicError): Promise<void> {
  const delay = Math.min(job.initialDelaySeconds * job.backoffMultiplier ** job.failures, LONGEST_DELAY_SECONDS);
  const seconds = delay * (0.5 + Math.random() / 2);
  await tx
    .update(jobs)
    .set({
      status: 'retrying',
      queueId: null,
      converterId: null,
      failures: job.failures + 1,
      dueAt: sql`now() + make_interval(secs => ${seconds})`,
      error,
    })
    .where(eq(jobs.id, job.id));
}
