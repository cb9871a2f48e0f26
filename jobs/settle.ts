import { and, eq, ne, sql } from 'drizzle-orm';
import type { PgUpdateSetSource } from 'drizzle-orm/pg-core';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobAttempts, jobs } from '../db/schema.ts';
import type { PublicError } from '../errors.ts';
import type { AttemptKey, Job } from './claim.ts';
import { failRemainingPages, finishUpload } from './conversion.ts';
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

const LONGEST_DELAY_SECONDS = 3_600;

/**
 * Ends one attempt in one transaction: pg-boss job, job, attempt, and what hangs on the job. Gives false, and changes
 * nothing, when the attempt no longer owns the job (it was settled by somebody else, as `converter_lost` perhaps).
 */
export async function settle(
  db: Database,
  queues: Queues,
  attempt: AttemptKey,
  outcome: Outcome,
  peakMemoryMb: number | null,
): Promise<boolean> {
  if (outcome.kind === 'split')
    await ensureQueues(
      queues,
      outcome.children.map(({ shape }) => shape),
    );
  return transition(db, async (tx) => {
    await queues.remove(tx, queueName(attempt), attempt.queueId);
    const [job] = await tx
      .select()
      .from(jobs)
      .where(and(eq(jobs.queueId, attempt.queueId), eq(jobs.attempt, attempt.attempt), eq(jobs.status, 'running')))
      .for('update');
    if (job === undefined) return false;

    await tx
      .update(jobAttempts)
      .set({
        status: outcome.kind === 'split' ? 'completed' : outcome.kind,
        error: outcome.kind === 'failed' ? outcome.error : null,
        peakMemoryMb,
        finishedAt: sql`now()`,
      })
      .where(and(eq(jobAttempts.jobId, job.id), eq(jobAttempts.attempt, job.attempt)));

    switch (outcome.kind) {
      case 'completed':
        await endJob(tx, job, { status: 'completed', result: outcome.result, error: null });
        break;
      case 'split':
        await awaitChildren(tx, queues, job, outcome.children);
        break;
      case 'failed':
        if (outcome.retryable && (await attemptsSpent(tx, job)) < job.maxAttempts)
          await retryLater(tx, job, outcome.error);
        else await endJob(tx, job, { status: 'failed', result: null, error: outcome.error });
        break;
      case 'returned':
        await waitUntil(tx, job, { runAt: sql`now()` });
        break;
      default:
        outcome satisfies never;
    }
    return true;
  });
}

/** The one way a job ends: its own row, then its parent or its upload. */
async function endJob(
  tx: Transaction,
  job: Job,
  end: { status: 'completed' | 'failed'; result: Record<string, unknown> | null; error: PublicError | null },
): Promise<void> {
  await tx
    .update(jobs)
    .set({ ...end, queueId: null, converterId: null, pendingChildren: 0, finishedAt: sql`now()` })
    .where(eq(jobs.id, job.id));
  if (end.error !== null && job.uploadId !== null && job.pendingChildren === 0)
    await failRemainingPages(tx, job, end.error);
  if (job.parentId !== null) await childEnded(tx, job.parentId);
  else if (job.uploadId !== null) await finishUpload(tx, job.uploadId);
}

/** A parent ends with its last child: failed if any of them did, with that child's error. */
async function childEnded(tx: Transaction, parentId: string): Promise<void> {
  const [parent] = await tx.select().from(jobs).where(eq(jobs.id, parentId)).for('update');
  if (parent === undefined || parent.status !== 'running') return;
  if (parent.pendingChildren > 1) {
    await tx
      .update(jobs)
      .set({ pendingChildren: parent.pendingChildren - 1 })
      .where(eq(jobs.id, parentId));
    return;
  }
  const [failed] = await tx
    .select({ error: jobs.error })
    .from(jobs)
    .where(and(eq(jobs.parentId, parentId), eq(jobs.status, 'failed')))
    .orderBy(jobs.id)
    .limit(1);
  await endJob(tx, parent, { status: failed ? 'failed' : 'completed', result: null, error: failed?.error ?? null });
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
      uploadId: job.uploadId,
      original: job.original,
      parentId: job.id,
      maxAttempts: job.maxAttempts,
      timeoutSeconds: job.timeoutSeconds,
      rank: job.rank - index,
    })),
  );
}

/** Attempts handed back by a stopping converter do not count. */
async function attemptsSpent(tx: Transaction, job: Job): Promise<number> {
  return tx.$count(jobAttempts, and(eq(jobAttempts.jobId, job.id), ne(jobAttempts.status, 'returned')));
}

/** Backoff grows with each attempt; jitter spreads what failed together over the second half of the delay. */
async function retryLater(tx: Transaction, job: Job, error: PublicError): Promise<void> {
  const delay = Math.min(job.initialDelaySeconds * job.backoffMultiplier ** (job.attempt - 1), LONGEST_DELAY_SECONDS);
  const seconds = delay * (0.5 + Math.random() / 2);
  await waitUntil(tx, job, { runAt: sql`now() + make_interval(secs => ${seconds})`, error });
}

/** The job leaves its queue until housekeeping sends it again. */
async function waitUntil(tx: Transaction, job: Job, changes: PgUpdateSetSource<typeof jobs>): Promise<void> {
  await tx
    .update(jobs)
    .set({ status: 'retrying', queueId: null, converterId: null, ...changes })
    .where(eq(jobs.id, job.id));
}
