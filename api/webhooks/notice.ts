import type { Database, Transaction } from '../../db/client.ts';
import { countAttempts, countDependencies, findListed } from '../../db/jobs.ts';
import { countParts, findUpload } from '../../db/uploads.ts';
import { findPending, type Webhook } from '../../db/webhooks.ts';
import { jobNotice } from '../jobs/documents.ts';
import { uploadNotice } from '../uploads/documents.ts';

/** A webhook that is due, and the document that it delivers. */
export interface Notice {
  webhook: Webhook;
  data: { status: string };
}

/** Reads both in one snapshot; undefined when they were deleted, or another process has settled the webhook. */
export async function readNotice(db: Database, webhookId: string): Promise<Notice | undefined> {
  return db.transaction(
    async (tx) => {
      const webhook = await findPending(tx, webhookId);
      const data = webhook && (await documentOf(tx, webhook));
      return data && { webhook, data };
    },
    { isolationLevel: 'repeatable read', accessMode: 'read only' },
  );
}

async function documentOf(tx: Transaction, { uploadId, jobId }: Webhook): Promise<Notice['data'] | undefined> {
  if (uploadId !== null) {
    const upload = await findUpload(tx, uploadId);
    return upload && uploadNotice(upload, await countParts(tx, uploadId));
  }
  const [job] = jobId === null ? [] : await findListed(tx, [jobId]);
  if (job === undefined) return undefined;
  const counts = { attempts: await countAttempts(tx, job.id), dependsOn: await countDependencies(tx, job.id) };
  return jobNotice(job, counts);
}
