import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import type { Job } from './job.ts';
import { type NewJob, submitJobs } from './submit.ts';

/** A part of a job that was split; its timeout defaults to that of the job. */
export type Child = Pick<NewJob, 'type' | 'payload' | 'shape' | 'timeoutSeconds'>;

/**
 * Queues parts of a job as its children, which count attempts from `attempt` on. Each child arrives a second later than the
 * one before, so that a large job does not block small ones that arrive after it. The caller locks the row of `job`, and
 * counts its children.
 */
export async function submitChildren(
  tx: Transaction,
  queues: Queues,
  job: Job,
  children: Child[],
  attempt = 0,
): Promise<void> {
  await submitJobs(
    tx,
    queues,
    children.map((child, index) => ({
      timeoutSeconds: job.timeoutSeconds,
      ...child,
      priority: job.priority,
      owner: job.owner,
      traceparent: job.traceparent,
      uploadId: job.uploadId,
      original: job.original,
      parentId: job.parentId ?? job.id,
      maxAttempts: job.maxAttempts,
      initialDelaySeconds: job.initialDelaySeconds,
      backoffMultiplier: job.backoffMultiplier,
      arrivedAt: new Date(job.arrivedAt.getTime() + index * 1_000),
      attempt,
    })),
  );
}
