import { and, asc, eq, isNull, type SQL, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs, uploads } from '../db/schema.ts';
import { findUpload } from '../db/uploads.ts';
import { cancelFamilies, lockFamilies } from '../jobs/cancel.ts';
import { placeDependants } from '../jobs/dependants.ts';
import { awaitChange, conflict, lockChange } from '../jobs/exclusive.ts';
import { reopen } from '../jobs/retry.ts';
import { Moved, transition } from '../jobs/transition.ts';

/**
 * What is done to an upload as a whole. No child is born into one that was cancelled or deleted: who adds a job to it
 * holds the row of the job's parent, and here all jobs without a parent are locked first.
 */

/**
 * Ends all jobs of an upload that have not ended, and with them the upload; its good pages stay. Gives false when there
 * is no such upload; throws `conflict` when it has ended.
 */
export async function cancelUpload(db: Database, queues: Queues, id: string): Promise<boolean> {
  return transition(db, async (tx) => {
    await lockChange(tx, id);
    const locked = await lockFamilies(tx, queues, eq(jobs.uploadId, id));
    const upload = await findUpload(tx, id);
    if (upload === undefined) return false;
    if (upload.finishedAt !== null) throw conflict(`the upload has ended already: ${upload.status}`);
    await cancelFamilies(tx, queues, locked);
    return true;
  });
}

/**
 * Runs an upload that has failed or was cancelled again: what failed, and what was not done. Gives false when there is no
 * such upload; throws `conflict` when it has not failed. Its password is gone, so encrypted PDFs fail as `encrypted_pdf`.
 */
export async function retryUpload(db: Database, queues: Queues, id: string): Promise<boolean> {
  return transition(db, async (tx) => {
    await lockChange(tx, id);
    const originals = await tx
      .select({ id: jobs.id })
      .from(jobs)
      .where(and(eq(jobs.uploadId, id), isNull(jobs.parentId)))
      .orderBy(asc(jobs.id))
      .for('update');
    const upload = await findUpload(tx, id);
    if (upload === undefined) return false;
    if (upload.status !== 'failed' && upload.status !== 'cancelled')
      throw conflict(`the upload is ${upload.status}: only what failed or was cancelled can be retried`);
    const reopened: string[] = [];
    // Refused are those that have nothing left to do.
    for (const job of originals) if ((await reopen(tx, queues, job.id)) === undefined) reopened.push(job.id);
    await placeDependants(tx, queues, reopened);
    return true;
  });
}

/**
 * Deletes the rows of an upload in any status: its jobs end first, so that what waits for them fails. A
 * trigger replaces its history by one event, which says that it was deleted. The caller removes the files afterwards. Gives false when
 * there is no such upload, or it does not match `only`.
 */
export async function deleteUpload(db: Database, queues: Queues, id: string, only?: SQL): Promise<boolean> {
  const wanted = and(eq(uploads.id, id), only);
  return transition(db, async (tx) => {
    await awaitChange(tx, id);
    if ((await tx.$count(uploads, wanted)) === 0) return false;
    await cancelFamilies(tx, queues, await lockFamilies(tx, queues, eq(jobs.uploadId, id)));
    const deleted = await tx.delete(uploads).where(wanted).returning({ id: uploads.id });
    // Deleted by another, or retried, since it was looked at.
    if (deleted.length === 0) throw new Moved();
    return true;
  });
}

/**
 * Deletes the rows of those of these uploads that have ended and match `only`, in one transaction, as `deleteUpload` does
 * each. Leaves those that somebody retries or deletes just now. Gives the ids of the deleted ones, whose files the caller removes.
 */
export async function deleteEndedUploads(db: Database, ids: string[], only: SQL): Promise<string[]> {
  return transition(db, async (tx) => {
    const { rows: locked } = await tx.execute<{ id: string }>(sql`
      with free as (
        select upload_id from jobs where upload_id = any(${sql.param(ids)}::uuid[]) and parent_id is null
        order by id for update skip locked
      )
      select wanted as id from unnest(${sql.param(ids)}::uuid[]) wanted
      where (select count(*) from jobs where upload_id = wanted and parent_id is null)
        = (select count(*) from free where upload_id = wanted)`);
    const { rows: deleted } = await tx.execute<{ id: string }>(sql`
      delete from uploads where id = any(${sql.param(locked.map(({ id }) => id))}::uuid[])
        and finished_at is not null and ${only} returning id`);
    return deleted.map(({ id }) => id);
  });
}
