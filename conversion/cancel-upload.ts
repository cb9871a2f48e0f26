import { eq } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import { findUpload } from '../db/uploads.ts';
import { cancelFamilies, lockFamilies } from '../jobs/cancel.ts';
import { conflict, lockChange } from '../jobs/change-lock.ts';
import { transition } from '../jobs/transition.ts';

/**
 * Cancels all jobs of an upload that have not ended, and so the upload; its good pages stay. Returns false when there is
 * no such upload; throws `conflict` when it has ended. No child is added meanwhile, because `lockFamilies` holds all
 * parents.
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
