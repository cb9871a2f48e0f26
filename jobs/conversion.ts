import { and, asc, eq, inArray, isNull, notInArray, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { ENDED, jobs, originals, type PageRange, pages, uploads } from '../db/schema.ts';
import type { PublicError } from '../errors.ts';
import { ownedBy } from './attempt.ts';
import type { Child } from './children.ts';
import type { AttemptKey, Job } from './claim.ts';
import { countPages, toRanges } from './pages.ts';
import { transition } from './transition.ts';
import { notifyEnded } from './webhooks.ts';

/** What an inspection found out about an original. */
export interface Inspection {
  pageCount: number;
  /** The pages asked for, ascending. */
  selected: PageRange[];
}

/** A page that is ready in the store, or that failed for good. */
export type PageOutcome =
  | {
      page: number;
      status: 'completed';
      path: string;
      width: number;
      height: number;
      bytes: number;
      sha256: string;
      dpi: number | null;
      reduced: string | null;
      engine: string;
      /** Why another engine than the first drew the page. */
      note: string | null;
    }
  | { page: number; status: 'failed'; error: PublicError };

/** Records what the running attempt found in its original. Gives false when the attempt no longer owns its job. */
export async function recordInspection(db: Database, attempt: AttemptKey, found: Inspection): Promise<boolean> {
  return transition(db, async (tx) => {
    const job = await lockRunning(tx, attempt);
    if (job === undefined) return false;
    await tx.update(originals).set({ pageCount: found.pageCount, selected: found.selected }).where(originalOf(job));
    await countTotal(tx, job.uploadId);
    return true;
  });
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
 * Records pages before their job ends, in one transaction. A page that a later attempt made again counts once. Gives
 * false when the attempt no longer owns its job.
 */
export async function recordPages(db: Database, attempt: AttemptKey, outcomes: PageOutcome[]): Promise<boolean> {
  return transition(db, async (tx) => {
    const job = await lockRunning(tx, attempt);
    if (job === undefined) return false;
    const recorded = await tx
      .insert(pages)
      .values(outcomes.map((outcome) => ({ uploadId: job.uploadId, original: job.original, ...outcome })))
      .onConflictDoNothing()
      .returning({ status: pages.status });
    const completed = recorded.filter(({ status }) => status === 'completed').length;
    if (completed > 0) {
      await tx
        .update(uploads)
        .set({ pagesDone: sql`${uploads.pagesDone} + ${completed}` })
        .where(eq(uploads.id, job.uploadId));
    }
    return true;
  });
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
  const [unfinished] = await tx
    .select({ id: jobs.id })
    .from(jobs)
    .where(and(eq(jobs.uploadId, uploadId), isNull(jobs.parentId), notInArray(jobs.status, [...ENDED])))
    .limit(1);
  if (unfinished !== undefined) return;
  const error = await firstError(tx, uploadId);
  const cancelled = await tx.$count(
    jobs,
    and(eq(jobs.uploadId, uploadId), isNull(jobs.parentId), eq(jobs.status, 'cancelled')),
  );
  const status = cancelled > 0 ? 'cancelled' : error === null ? 'completed' : 'failed';
  const ended = await tx
    .update(uploads)
    .set({ status, error, password: null, finishedAt: sql`now()` })
    .where(and(eq(uploads.id, uploadId), inArray(uploads.status, ['queued', 'processing'])))
    .returning({ notifyUrl: uploads.notifyUrl });
  await notifyEnded(
    tx,
    ended.map(({ notifyUrl }) => ({ uploadId, status, notifyUrl })),
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

/** The first failed original's error, or else the first failed page's with its place. */
async function firstError(tx: Transaction, uploadId: string): Promise<PublicError | null> {
  const [original] = await tx
    .select({ error: originals.error })
    .from(originals)
    .where(and(eq(originals.uploadId, uploadId), sql`${originals.error} is not null`))
    .orderBy(asc(originals.original))
    .limit(1);
  if (original?.error) return original.error;
  const [page] = await tx
    .select({ original: pages.original, page: pages.page, error: pages.error })
    .from(pages)
    .where(and(eq(pages.uploadId, uploadId), eq(pages.status, 'failed')))
    .orderBy(asc(pages.original), asc(pages.page))
    .limit(1);
  if (!page?.error) return null;
  return { code: page.error.code, message: `original ${page.original}, page ${page.page}: ${page.error.message}` };
}

async function lockRunning(tx: Transaction, attempt: AttemptKey) {
  const [job] = await tx
    .select({ uploadId: jobs.uploadId, original: jobs.original })
    .from(jobs)
    .where(ownedBy(attempt))
    .for('update');
  if (job === undefined || job.uploadId === null || job.original === null) return undefined;
  return { uploadId: job.uploadId, original: job.original };
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
