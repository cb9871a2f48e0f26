import { memoryClass, type Shape } from '../../jobs/shape.ts';

/** Ranges shrink towards the end, each this part of what is left, so that all cores finish together. */
const SHARE = 1 / 4;
/** A separate range costs as much as two pages. As many ordinary pages are converted where they were inspected. */
const MIN_RANGE = 7;
/** A page in a range waits for those before it. */
const MAX_RANGE = 48;

/** Pages that are converted together, and the memory class that they reserve. */
export interface PlannedRange {
  pages: number[];
  memoryMb: number;
}

/** A page and what converting it takes in all, in MB. */
export interface PlannedPage {
  page: number;
  memoryMb: number;
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
    ranges.push({ memoryMb, pages });
  }
  return ranges;
}

/** Of so many pages that are left. */
function sizeOfNext(left: number): number {
  if (left <= MIN_RANGE) return left;
  if (left < 2 * MIN_RANGE) return Math.ceil(left / 2);
  return Math.min(MAX_RANGE, Math.max(MIN_RANGE, Math.ceil(left * SHARE)));
}
