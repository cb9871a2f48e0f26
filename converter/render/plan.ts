import { conversionShape, memoryClass, type Shape } from '../../jobs/shape.ts';

/** Ranges shrink towards the end, each this part of what is left, so that all cores finish together. */
const SHARE = 1 / 4;
/** Opening a document anew costs as much as a page. As many pages of ordinary size are converted where they were inspected. */
const SMALLEST_RANGE = 5;
/** A range that fails is done again as a whole, and a page that waits in one waits for those before it. */
const LARGEST_RANGE = 24;

/** A page and what converting it takes in all, in MB. */
export interface PlannedPage {
  page: number;
  memoryMb: number;
}

export interface PlannedRange {
  shape: Shape;
  pages: number[];
}

/**
 * Cuts the pages into ranges, in order, of pages that need the same class of memory, at least that of the inspection's
 * own shape. One range of that very shape means: convert it there and then.
 */
export function planRanges(planned: PlannedPage[], own: Shape): PlannedRange[] {
  const classes = planned.map(({ memoryMb }) => memoryClass(Math.max(own.memoryMb, memoryMb)));
  const ranges: PlannedRange[] = [];
  for (let at = 0; at < planned.length; at += ranges.at(-1)?.pages.length ?? 0) {
    const left = planned.length - at;
    const size = sizeOfNext(left);
    const memoryMb = classes[at] as number;
    const other = classes.slice(at, at + size).findIndex((needed) => needed !== memoryMb);
    const pages = planned.slice(at, at + (other < 0 ? size : other)).map(({ page }) => page);
    ranges.push({ shape: conversionShape(memoryMb), pages });
  }
  return ranges;
}

/** Of so many pages that are left. */
function sizeOfNext(left: number): number {
  if (left <= SMALLEST_RANGE) return left;
  if (left < 2 * SMALLEST_RANGE) return Math.ceil(left / 2);
  return Math.min(LARGEST_RANGE, Math.max(SMALLEST_RANGE, Math.ceil(left * SHARE)));
}
