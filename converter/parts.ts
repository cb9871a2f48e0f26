import type { Child } from '../jobs/children.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { pagesIn } from '../jobs/pages.ts';
import { conversionShape } from '../jobs/shape.ts';
import { type ConvertRangePayload, convertRange, rangeOf } from '../tasks/convert-range.ts';
import type { Part } from '../tasks/task.ts';

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
