import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import type { Job } from './claim.ts';
import { type NewJob, submitJobs } from './submit.ts';

/** A part of a job that was split; its time-out is the job's unless it has its own. */
export type Child = Pick<NewJob, 'type' | 'payload' | 'shape' | 'timeoutSeconds'>;

/**
 * Queues parts of a job as its children; they count attempts from `attempt` on. Each yields one second of virtual arrival
 * to what came in since: big files do not block small ones. The caller holds the row of `job`, and counts its children.
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
