import { and, asc, eq, isNull } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import { findUpload } from '../db/uploads.ts';
import { conflict, lockChange } from '../jobs/change-lock.ts';
import { placeDependants } from '../jobs/dependants.ts';
import { reopenJob } from '../jobs/retry.ts';
import { transition } from '../jobs/transition.ts';

/**
 * Runs what failed or was cancelled of an upload again. Returns false when there is no such upload; throws `conflict` when
 * it has not failed. The password was deleted when the upload ended, so encrypted PDFs fail as `encrypted_pdf`.
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
      throw conflict(`the upload is ${upload.status}: only failed or cancelled uploads can be retried`);
    const reopened: string[] = [];
    // A job that has nothing left to do is refused.
    for (const job of originals) if ((await reopenJob(tx, queues, job.id)) === undefined) reopened.push(job.id);
    await placeDependants(tx, queues, reopened);
    return true;
  });
}
