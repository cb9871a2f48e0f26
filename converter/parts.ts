import { z } from 'zod';
import type { Child } from '../jobs/children.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { conversionShape, isMemoryClass } from '../jobs/shape.ts';
import { convert } from '../tasks/convert.ts';
import { type ConvertRangePayload, convertRange, rangeOf } from '../tasks/convert-range.ts';
import type { Part } from '../tasks/task.ts';
import { RejectedOutput } from './files/rejected-output.ts';

const parts = z
  .array(z.strictObject({ pages: z.array(z.int()).min(1), memoryMb: z.int().refine(isMemoryClass) }))
  .min(1) satisfies z.ZodType<Part[]>;

/** The pages of a conversion: those that were asked for, and those of them without an outcome. */
export interface PagesOf {
  selected: ReadonlySet<number>;
  left: readonly number[];
}

/**
 * The children for the parts that a conversion was split into. A sandbox names pages and memory alone; all else is of
 * the job. Throws RejectedOutput unless the parts hold all pages that are left, and none twice or that nobody asked for.
 */
export function childrenFor(split: unknown, job: ClaimedJob, { selected, left }: PagesOf): Child[] {
  const { data } = parts.safeParse(split);
  if (data === undefined || job.type !== convert.type) throw new RejectedOutput('a split has no valid parts');
  const pages = data.flatMap((part) => part.pages);
  const unique = new Set(pages);
  if (
    unique.size !== pages.length ||
    pages.some((page) => !selected.has(page)) ||
    left.some((page) => !unique.has(page))
  )
    throw new RejectedOutput('a split does not have the pages of its job');
  return data.map((part) => childFor(job, part, 0));
}

/** A child for some pages of a conversion, which have used processor time before. */
export function childFor(job: ClaimedJob, { pages, memoryMb }: Part, spentSeconds: number): Child {
  const payload = rangeOf(
    job.payload as ConvertRangePayload,
    pages.toSorted((a, b) => a - b),
  );
  return {
    type: convertRange.type,
    payload: { ...payload, spent_seconds: spentSeconds },
    shape: conversionShape(memoryMb),
  };
}
