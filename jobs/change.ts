import { eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs, type Priority } from '../db/schema.ts';
import { conflict } from './change-lock.ts';
import type { Job } from './job.ts';
import { release } from './release.ts';
import { payloadBytes } from './submit.ts';
import { transition } from './transition.ts';

/** Absent fields stay as they are. */
export interface JobChange {
  priority?: Priority;
  /** Null means now. */
  runAt?: Date | null;
  payload?: Record<string, unknown>;
}

/**
 * Changes a waiting job. A ready job keeps its place among the jobs of its new priority, and leaves the queue for a `runAt`
 * in the future. A scheduled job becomes ready when `runAt` has passed; a blocked or retrying one uses it later. Returns
 * undefined when there is no such job. Throws `conflict` when it runs or has ended, and for any change but the priority of
 * a job that an upload or another job has created.
 */
export async function changeJob(db: Database, queues: Queues, id: string, change: JobChange): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    // A claim either precedes this lock or sees the change.
    const [job] = await tx.select().from(jobs).where(eq(jobs.id, id)).for('update');
    if (job === undefined) return undefined;
    refuseChange(job, change);
    const { priority, runAt, payload } = change;
    const [updated] = await tx
      .update(jobs)
      .set({ priority, runAt, payload, payloadBytes: payload && payloadBytes(payload) })
      .where(eq(jobs.id, id))
      .returning({ isLater: sql<boolean>`coalesce(run_at > now(), false)` });
    if (runAt !== undefined) await reschedule(tx, queues, job, updated?.isLater === true);
    const [changed] = await tx.select().from(jobs).where(eq(jobs.id, id));
    return changed;
  });
}

function refuseChange({ id, status, uploadId, parentId }: Job, { runAt, payload }: JobChange): void {
  if (status !== 'scheduled' && status !== 'blocked' && status !== 'ready' && status !== 'retrying') {
    throw conflict(`${id} is ${status}: only waiting jobs can change`);
  }
  const isInternal = uploadId !== null || parentId !== null;
  if (isInternal && (runAt !== undefined || payload !== undefined)) {
    throw conflict(`${id} was created by ${parentId ?? `upload ${uploadId}`}: only its priority can change`);
  }
}

/** Schedules a job again that waits only for its `runAt`; `job` is the row before the change. */
async function reschedule(tx: Transaction, queues: Queues, job: Job, isLater: boolean): Promise<void> {
  if (job.status !== 'scheduled' && !(job.status === 'ready' && isLater)) return;
  await queues.remove(tx, job.queueId === null ? [] : [job.queueId]);
  await release(tx, queues, [job.id]);
}
