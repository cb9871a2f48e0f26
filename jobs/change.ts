import { eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs, type Priority } from '../db/schema.ts';
import { conflict } from './change-lock.ts';
import type { Job } from './claim.ts';
import { release } from './release.ts';
import { payloadBytes } from './submit.ts';
import { transition } from './transition.ts';

/** Only what is given changes. */
export interface JobChange {
  priority?: Priority;
  /** Null means now. */
  runAt?: Date | null;
  payload?: Record<string, unknown>;
}

/**
 * Changes a job that waits. A job that is ready keeps its place among those of its new priority, and leaves the queue for a
 * `runAt` in the future; a scheduled one becomes ready when that is over; a blocked or retrying one keeps to it once it
 * waits for nothing else. Gives undefined when there is no such job; throws `conflict` when it runs or has ended, or when
 * something else than the priority of a job that an upload or another job has made would change.
 */
export async function changeJob(db: Database, queues: Queues, id: string, change: JobChange): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    // An attempt starts before this lock or finds the job changed.
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
    throw conflict(`${id} is ${status}: only a job that waits can change`);
  }
  const isOurs = uploadId !== null || parentId !== null;
  if (isOurs && (runAt !== undefined || payload !== undefined)) {
    throw conflict(`${id} was made by ${parentId ?? `upload ${uploadId}`}: only its priority can change`);
  }
}

/** Moves a job that waits for nothing but its time; `job` is as it was before. */
async function reschedule(tx: Transaction, queues: Queues, job: Job, isLater: boolean): Promise<void> {
  if (job.status !== 'scheduled' && !(job.status === 'ready' && isLater)) return;
  await queues.remove(tx, job.queueId === null ? [] : [job.queueId]);
  await release(tx, queues, [job.id]);
}
