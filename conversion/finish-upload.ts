import { eq, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { originals, uploads } from '../db/schema.ts';
import { createWebhooks } from '../jobs/webhooks.ts';
import { countPages } from './page-selection.ts';

/** Ends an upload whose last job has ended. The row is locked first, so that of two last jobs one sees both. */
export async function finishUpload(tx: Transaction, uploadId: string): Promise<void> {
  await lockUpload(tx, uploadId);
  const { rows } = await tx.execute<{ status: 'completed' | 'failed' | 'cancelled'; notifyUrl: string | null }>(sql`
    with found as (
      select
        exists (select from jobs where upload_id = ${uploadId} and parent_id is null and status = 'cancelled') as is_cancelled,
        coalesce(
          (select error from originals where upload_id = ${uploadId} and error is not null order by original limit 1),
          (select jsonb_build_object('code', error->'code',
              'message', format('original %s, page %s: %s', original, page, error->>'message'))
            from pages where upload_id = ${uploadId} and status = 'failed' order by original, page limit 1)) as error,
        (select sum((range->>1)::int - (range->>0)::int + 1)
          from originals, jsonb_array_elements(selected) range where upload_id = ${uploadId}) as total)
    update uploads set password = null, finished_at = now(), error = found.error,
      pages_total = coalesce(pages_total, found.total),
      status = case when is_cancelled then 'cancelled' when found.error is null then 'completed' else 'failed' end
    from found
    where id = ${uploadId} and status in ('queued', 'processing') and not exists (
      select from jobs where upload_id = ${uploadId} and parent_id is null and finished_at is null)
    returning status, notify_url as "notifyUrl"`);
  await createWebhooks(
    tx,
    rows.map(({ status, notifyUrl }) => ({ uploadId, type: `upload.${status}`, url: notifyUrl })),
  );
}

/** An upload that has ended is processed again, because one of its jobs runs again. */
export async function reopenUpload(tx: Transaction, uploadId: string): Promise<void> {
  await tx.update(uploads).set({ status: 'processing', error: null, finishedAt: null }).where(eq(uploads.id, uploadId));
}

/** Sets the total of pages once every original was inspected or has failed. */
export async function setPagesTotal(tx: Transaction, uploadId: string): Promise<void> {
  await lockUpload(tx, uploadId);
  const all = await tx
    .select({ selected: originals.selected, error: originals.error })
    .from(originals)
    .where(eq(originals.uploadId, uploadId));
  if (all.some(({ selected, error }) => selected === null && error === null)) return;
  if (all.every(({ selected }) => selected === null)) return;
  const pagesTotal = all.reduce((sum, { selected }) => sum + countPages(selected ?? []), 0);
  await tx.update(uploads).set({ pagesTotal }).where(eq(uploads.id, uploadId));
}

async function lockUpload(tx: Transaction, uploadId: string): Promise<void> {
  await tx.select({ id: uploads.id }).from(uploads).where(eq(uploads.id, uploadId)).for('no key update');
}
