import { and, eq, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { jobs, originals, pages } from '../db/schema.ts';
import type { Child } from '../jobs/children.ts';
import type { Job } from '../jobs/job.ts';
import { toRanges } from './page-selection.ts';
import { convertRange, convertRangePayload } from './tasks/convert-range.ts';

const madePages = convertRangePayload.pick({ pages: true });

/** True if pages of the job's original have failed. */
export async function hasFailedPages(tx: Transaction, { uploadId, original }: Job): Promise<boolean> {
  if (uploadId === null || original === null) return false;
  return (await tx.$count(pages, isFailed(uploadId, original))) > 0;
}

/**
 * Deletes the failures of a job's original, and the processor time that its pages have spent. Returns the pages that had
 * failed, ascending.
 */
export async function forgetFailures(tx: Transaction, { uploadId, original }: Job): Promise<number[]> {
  if (uploadId === null || original === null) return [];
  const forgotten = await tx.delete(pages).where(isFailed(uploadId, original)).returning({ page: pages.page });
  await tx
    .update(originals)
    .set({ error: null })
    .where(and(eq(originals.uploadId, uploadId), eq(originals.original, original)));
  await tx
    .update(jobs)
    .set({ payload: sql`${jobs.payload} - 'spent_seconds'` })
    .where(and(eq(jobs.uploadId, uploadId), eq(jobs.original, original), sql`${jobs.payload} ? 'spent_seconds'`));
  return forgotten.map(({ page }) => page).sort((a, b) => a - b);
}

/**
 * The parts that make failed pages again, where neither the job nor one of its children runs again to make them. Each part
 * is like the last job that made its pages.
 * @param children in the order in which they were created
 */
export function partsToRetry(failed: number[], job: Job, children: Job[]): Child[] {
  const runsItself = children.length === 0 && job.status !== 'completed';
  if (runsItself) return [];
  const makers = [job, ...children].map((maker) => ({ maker, pages: madePages.safeParse(maker.payload).data?.pages }));
  const lastMakerOf = (page: number) =>
    makers.findLast((made) => made.pages?.some(([from, to]) => from <= page && page <= to))?.maker ?? job;
  return [...Map.groupBy(failed, lastMakerOf)]
    .filter(([maker]) => maker === job || maker.status === 'completed')
    .map(([maker, made]) => partLike(maker, made));
}

function partLike({ payload, cpuUnits, memoryMb, timeoutSeconds }: Job, pages: number[]): Child {
  const { page_selection: _, spent_seconds: __, ...kept } = payload;
  return {
    type: convertRange.type,
    payload: { ...kept, pages: toRanges(pages) },
    shape: { cpuUnits, memoryMb },
    timeoutSeconds,
  };
}

function isFailed(uploadId: string, original: number) {
  return and(eq(pages.uploadId, uploadId), eq(pages.original, original), eq(pages.status, 'failed'));
}
