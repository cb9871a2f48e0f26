import { and, eq, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { type PageRange, pages } from '../db/schema.ts';
import { ownedBy } from '../jobs/attempt.ts';
import type { AttemptKey } from '../jobs/claim.ts';
import { retryDeadlocks, transition } from '../jobs/transition.ts';
import type { PublicError } from '../runtime/errors.ts';
import { setPagesTotal } from './finish-upload.ts';
import { countPages } from './page-selection.ts';

/** The result of the inspection of an original. */
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

/** A page as its task reports it: its PNG is in the output folder, or it failed permanently. */
export type PageReport =
  | {
      page: number;
      status: 'completed';
      width: number;
      height: number;
      dpi: number | null;
      reduced: string | null;
      engine: string;
      /** The reason why the first engine did not draw the page. */
      note: string | null;
    }
  | { page: number; status: 'failed'; error: PublicError };

/** A page whose PNG is in the store, or that failed permanently. */
export type PageOutcome = (PageReport & { status: 'completed' } & StoredFile) | (PageReport & { status: 'failed' });

/** Records the inspection of an original. Returns false when the attempt no longer owns its job. */
export function recordInspection(db: Database, attempt: AttemptKey, found: Inspection): Promise<boolean> {
  return recordPages(db, attempt, [], found);
}

/**
 * Records pages before their job ends, and the inspection of their original, in one statement. A page that a later attempt
 * makes again counts once. Returns false when the attempt no longer owns its job.
 */
export async function recordPages(
  db: Database,
  attempt: AttemptKey,
  outcomes: PageOutcome[],
  found?: Inspection,
): Promise<boolean> {
  const isFound = found !== undefined;
  const total = countPages(found?.selected ?? []);
  const { rows } = await retryDeadlocks(() =>
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
  // Originals are inspected concurrently: under the lock of the upload, the last inspection sees all others.
  if (job?.has_others && isFound) await transition(db, (tx) => setPagesTotal(tx, job.upload_id));
  return job !== undefined;
}

/** The pages of an original that have an outcome already, which a retry skips. */
export async function settledPages(db: Database, uploadId: string, original: number): Promise<number[]> {
  const rows = await db
    .select({ page: pages.page })
    .from(pages)
    .where(and(eq(pages.uploadId, uploadId), eq(pages.original, original)));
  return rows.map(({ page }) => page);
}
