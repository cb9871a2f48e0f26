import { and, eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { jobs, originals, type PageRange, pages, uploads } from '../db/schema.ts';
import { ownedBy } from '../jobs/attempt.ts';
import type { Child } from '../jobs/children.ts';
import type { AttemptKey, Job } from '../jobs/claim.ts';
import { repeating, transition } from '../jobs/transition.ts';
import { notifyEnded } from '../jobs/webhooks.ts';
import type { PublicError } from '../runtime/errors.ts';
import { countPages, toRanges } from './page-ranges.ts';

/** What an inspection found out about an original. */
export interface Inspection {
  pageCount: number;
  /** The pages asked for, ascending. */
  selected: PageRange[];
}

/** A file of the store. */
export interface StoredFile {
  path: string;
  bytes: number;
  sha256: string;
}

/** A page as its task reports it: its PNG is in the folder for output. Or a page that failed permanently. */
export type PageReport =
  | {
      page: number;
      status: 'completed';
      width: number;
      height: number;
      dpi: number | null;
      reduced: string | null;
      engine: string;
      /** Why another engine than the first drew the page. */
      note: string | null;
    }
  | { page: number; status: 'failed'; error: PublicError };

/** A page whose PNG is in the store, or that failed permanently. */
export type PageOutcome = (PageReport & { status: 'completed' } & StoredFile) | (PageReport & { status: 'failed' });

/** Records what the running attempt found in its original. Gives false when the attempt no longer owns its job. */
export function recordInspection(db: Database, attempt: AttemptKey, found: Inspection): Promise<boolean> {
  return recordPages(db, attempt, [], found);
}

/** Sets the total once every original was inspected or has failed. */
async function countTotal(tx: Transaction, uploadId: string): Promise<void> {
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

/**
 * Records pages before their job ends, and with them what was found in their original, in one statement. A page that a
 * later attempt made again counts once. Gives false when the attempt no longer owns its job.
 */
export async function recordPages(
  db: Database,
  attempt: AttemptKey,
  outcomes: PageOutcome[],
  found?: Inspection,
): Promise<boolean> {
  const isFound = found !== undefined;
  const total = countPages(found?.selected ?? []);
  const { rows } = await repeating(() =>
    db.execute<{ upload_id: string; has_others: boolean }>(sql`
      with job as (
        select upload_id, original from jobs
        where ${ownedBy(attempt)} and upload_id is not null and original is not null for update),
      inspected as (
        update originals set page_count = ${found?.pageCount ?? null}::int, selected = ${JSON.stringify(found?.selected ?? null)}::jsonb
        from job where ${isFound}::boolean and originals.upload_id = job.upload_id and originals.original = job.original),
      recorded as (
        insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, dpi, reduced, engine, note, error)
        select job.upload_id, job.original, made.* from job, jsonb_to_recordset(${JSON.stringify(outcomes)}::jsonb)
          as made(page int, status text, path text, width int, height int, bytes int, sha256 text, dpi real, reduced text,
            engine text, note text, error jsonb)
        on conflict do nothing returning status),
      made as (select count(*)::int as count from recorded where status = 'completed'),
      others as (
        select exists (
          select from originals where originals.upload_id = job.upload_id and originals.original <> job.original) as has_others from job),
      counted as (
        update uploads set pages_done = pages_done + made.count,
          pages_total = case when ${isFound}::boolean and not has_others then ${total}::int else pages_total end
        from job, made, others where uploads.id = job.upload_id and (${isFound}::boolean or made.count > 0))
      select upload_id, has_others from job, others`),
  );
  const [job] = rows;
  // The originals of an upload are inspected at the same time: the last of them sees all under the lock of the upload.
  if (job?.has_others && isFound) await transition(db, (tx) => countTotal(tx, job.upload_id));
  return job !== undefined;
}

/** Which pages of the job's original have an outcome already, so that a retry leaves them alone. */
export async function settledPages(db: Database, uploadId: string, original: number): Promise<number[]> {
  const rows = await db
    .select({ page: pages.page })
    .from(pages)
    .where(and(eq(pages.uploadId, uploadId), eq(pages.original, original)));
  return rows.map(({ page }) => page);
}

/**
 * A conversion job failed for good: the pages of its range that have no outcome yet fail with it; and with a whole
 * original, the original too.
 */
export async function failRemainingPages(tx: Transaction, job: Job, error: PublicError): Promise<void> {
  if (job.uploadId === null || job.original === null) return;
  const isRange = job.parentId !== null;
  const ranges = isRange ? sql`(select payload->'pages' from jobs where id = ${job.id})` : sql`originals.selected`;
  await tx.execute(sql`
    insert into pages (upload_id, original, page, status, error)
    select upload_id, original, page, 'failed', ${JSON.stringify(error)}::jsonb
    from originals, jsonb_array_elements(${ranges}) range, generate_series((range->>0)::int, (range->>1)::int) page
    where upload_id = ${job.uploadId} and original = ${job.original} and jsonb_typeof(${ranges}) = 'array'
    on conflict do nothing`);
  if (!isRange) {
    await tx
      .update(originals)
      .set({ error })
      .where(originalOf({ uploadId: job.uploadId, original: job.original }));
    await countTotal(tx, job.uploadId);
  }
}

/** Ends an upload whose last job has ended. The upload's row is locked first, so that of two last jobs one sees both. */
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
  await notifyEnded(
    tx,
    rows.map((ended) => ({ uploadId, ...ended })),
  );
}

/**
 * Forgets the failures of a job's original, and the time that its pages have used, before the job runs again. Gives the
 * pages that had failed, ascending.
 */
export async function forgetFailures(tx: Transaction, { uploadId, original }: Job): Promise<number[]> {
  if (uploadId === null || original === null) return [];
  const forgotten = await tx.delete(pages).where(failedOf({ uploadId, original })).returning({ page: pages.page });
  await tx.update(originals).set({ error: null }).where(originalOf({ uploadId, original }));
  await tx
    .update(jobs)
    .set({ payload: sql`${jobs.payload} - 'spent_seconds'` })
    .where(and(eq(jobs.uploadId, uploadId), eq(jobs.original, original), sql`${jobs.payload} ? 'spent_seconds'`));
  return forgotten.map(({ page }) => page).sort((a, b) => a - b);
}

/** An upload that has ended goes on, as one of its jobs runs again. */
export async function reopenUpload(tx: Transaction, uploadId: string): Promise<void> {
  await tx.update(uploads).set({ status: 'processing', error: null, finishedAt: null }).where(eq(uploads.id, uploadId));
}

/**
 * Pages of an original as parts of its job, each like the one of `makers` that was the last to make them: the job and its
 * children, in the order in which they came.
 */
export function partsFor(numbers: number[], makers: [Job, ...Job[]]): (Child & { maker: Job })[] {
  const has = (maker: Job, page: number) =>
    ((maker.payload as { pages?: PageRange[] }).pages ?? []).some(([from, to]) => from <= page && page <= to);
  const [job] = makers;
  const byMaker = Map.groupBy(numbers, (page) => makers.findLast((maker) => has(maker, page)) ?? job);
  return [...byMaker].map(([maker, made]) => {
    const { page_selection: _, spent_seconds: __, ...payload } = maker.payload;
    return {
      maker,
      type: 'convert_range',
      payload: { ...payload, pages: toRanges(made) },
      shape: { cpuUnits: maker.cpuUnits, memoryMb: maker.memoryMb },
      timeoutSeconds: maker.timeoutSeconds,
    };
  });
}

/** Whether pages of a job's original have failed, be it alone or with it. */
export async function hasFailedPages(tx: Transaction, { uploadId, original }: Job): Promise<boolean> {
  if (uploadId === null || original === null) return false;
  return (await tx.$count(pages, failedOf({ uploadId, original }))) > 0;
}

async function lockUpload(tx: Transaction, uploadId: string): Promise<void> {
  await tx.select({ id: uploads.id }).from(uploads).where(eq(uploads.id, uploadId)).for('no key update');
}

function originalOf({ uploadId, original }: { uploadId: string; original: number }) {
  return and(eq(originals.uploadId, uploadId), eq(originals.original, original));
}

function failedOf({ uploadId, original }: { uploadId: string; original: number }) {
  return and(eq(pages.uploadId, uploadId), eq(pages.original, original), eq(pages.status, 'failed'));
}
