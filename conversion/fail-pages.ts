import { and, eq, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { originals } from '../db/schema.ts';
import type { Job } from '../jobs/job.ts';
import type { PublicError } from '../runtime/errors.ts';
import { setPagesTotal } from './finish-upload.ts';

/**
 * Fails the pages of a failed conversion that have no outcome yet: the pages of its range, or of the whole original, which
 * fails with them.
 */
export async function failRemainingPages(tx: Transaction, job: Job, error: PublicError): Promise<void> {
  const { uploadId, original } = job;
  if (uploadId === null || original === null) return;
  const isRange = job.parentId !== null;
  const ranges = isRange ? sql`(select payload->'pages' from jobs where id = ${job.id})` : sql`originals.selected`;
  await tx.execute(sql`
    insert into pages (upload_id, original, page, status, error)
    select upload_id, original, page, 'failed', ${JSON.stringify(error)}::jsonb
    from originals, jsonb_array_elements(${ranges}) range, generate_series((range->>0)::int, (range->>1)::int) page
    where upload_id = ${uploadId} and original = ${original} and jsonb_typeof(${ranges}) = 'array'
    on conflict do nothing`);
  if (isRange) return;
  await tx
    .update(originals)
    .set({ error })
    .where(and(eq(originals.uploadId, uploadId), eq(originals.original, original)));
  await setPagesTotal(tx, uploadId);
}
