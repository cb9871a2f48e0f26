import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { endedBefore } from '../db/retention.ts';
import { transition } from './transition.ts';

/**
 * Deletes those of these jobs that belong to no upload and ended more than so many days ago, with their attempts, webhooks
 * and edges, by one statement: no job of the batch is seen without another. Leaves those that somebody else works on.
 * Gives how many it deleted.
 */
export async function deleteOldJobs(db: Database, ids: string[], days: number): Promise<number> {
  return transition(db, async (tx) => {
    const { rowCount } = await tx.execute(sql`
      delete from jobs where id = any(array(
        select id from jobs where id = any(${sql.param(ids)}) and upload_id is null and ${endedBefore(days)}
        order by id for update skip locked))`);
    return rowCount ?? 0;
  });
}
