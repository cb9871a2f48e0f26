import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { endedBefore } from '../db/retention.ts';
import { transition } from './transition.ts';

/**
 * Deletes those of these jobs that belong to no upload and ended more than `days` ago, with their attempts, webhooks and
 * edges. One statement deletes the batch, so that no reader sees a part of it. Skips locked jobs. Returns the number of
 * deleted jobs.
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
