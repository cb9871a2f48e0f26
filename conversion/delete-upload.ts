import { and, eq, type SQL, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs, uploads } from '../db/schema.ts';
import { cancelFamilies, lockFamilies } from '../jobs/cancel.ts';
import { awaitChange } from '../jobs/change-lock.ts';
import { RetryTransaction, transition } from '../jobs/transition.ts';

/**
 * Deletes the rows of an upload in any status. Its jobs end first, so that their dependants fail; a trigger replaces its
 * history by one event. The caller removes the files afterwards. Returns false when there is no such upload, or it does
 * not match `only`.
 */
export async function deleteUpload(db: Database, queues: Queues, id: string, only?: SQL): Promise<boolean> {
  const wanted = and(eq(uploads.id, id), only);
  return transition(db, async (tx) => {
    await awaitChange(tx, id);
    if ((await tx.$count(uploads, wanted)) === 0) return false;
    await cancelFamilies(tx, queues, await lockFamilies(tx, queues, eq(jobs.uploadId, id)));
    const deleted = await tx.delete(uploads).where(wanted).returning({ id: uploads.id });
    // Another transaction has deleted or retried it meanwhile.
    if (deleted.length === 0) throw new RetryTransaction();
    return true;
  });
}

/**
 * Deletes the rows of those of these uploads that have ended and match `only`, in one transaction. Skips uploads that are
 * locked by a retry or another deletion. Returns the ids of the deleted uploads; the caller removes their files.
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
