import { randomUUID, randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs, type Priority } from '../db/schema.ts';
import { rankOf } from './order.ts';
import { queueName, type Shape } from './shape.ts';
import { WAKE_CHANNEL } from './wake.ts';

/** A job to be queued. `shape.memoryMb` is a memory class already. */
export interface NewJob {
  type: string;
  priority: Priority;
  payload: Record<string, unknown>;
  shape: Shape;
  uploadId: string | null;
  /** Which original of the upload it works on, counted from 1. */
  original: number | null;
  parentId?: string;
  /** Order among ready jobs; what priority and the present time give, unless set. */
  rank?: number;
  timeoutSeconds?: number;
  maxAttempts?: number;
}

const DEFAULTS = { maxAttempts: 3, initialDelaySeconds: 1, backoffMultiplier: 2, timeoutSeconds: 300 };

/** Makes the queues that these jobs need. To be called before the transaction that submits them. */
export async function ensureQueues(queues: Queues, shapes: Shape[]): Promise<void> {
  for (const name of new Set(shapes.map(queueName))) await queues.ensure(name);
}

/**
 * Stores jobs and queues them, all ready at once, in the caller's transaction; wakes the converters when it commits.
 * Gives their ids in order. The queues of their shapes must exist (`ensureQueues`).
 */
export async function submitJobs(tx: Transaction, queues: Queues, newJobs: NewJob[]): Promise<string[]> {
  const now = new Date();
  const rows = newJobs.map((job) => ({
    ...DEFAULTS,
    id: `job_${randomUUIDv7()}`,
    queueId: randomUUID(),
    type: job.type,
    priority: job.priority,
    rank: job.rank ?? rankOf(job.priority, now),
    payload: job.payload,
    ...job.shape,
    status: 'ready' as const,
    uploadId: job.uploadId,
    original: job.original,
    parentId: job.parentId ?? null,
    ...(job.timeoutSeconds !== undefined && { timeoutSeconds: job.timeoutSeconds }),
    ...(job.maxAttempts !== undefined && { maxAttempts: job.maxAttempts }),
  }));
  for (const [name, sent] of Map.groupBy(rows, queueName)) await queues.send(tx, name, sent);
  await tx.insert(jobs).values(rows);
  await tx.execute(sql`select pg_notify(${WAKE_CHANNEL}, '')`);
  return rows.map(({ id }) => id);
}
