import { conversionShape } from '../conversion/conversion-shape.ts';
import type { Part } from '../conversion/conversion-task.ts';
import { pagesIn } from '../conversion/page-ranges.ts';
import { type ConvertRangePayload, convertRange, rangeOf } from '../conversion/tasks/convert-range.ts';
import type { Child } from '../jobs/children.ts';
import type { ClaimedJob } from '../jobs/claim.ts';

/**
 * The child for a part of a conversion, whose pages have used processor time before. A sandbox names pages and memory
 * alone: everything else comes from the job.
 */
export function childFor(job: ClaimedJob, { pages, memoryMb }: Part, spentSeconds: number): Child {
  const payload = rangeOf(job.payload as ConvertRangePayload, pagesIn(pages));
  return {
    type: convertRange.type,
    payload: { ...payload, spent_seconds: spentSeconds },
    shape: conversionShape(memoryMb),
  };
}
