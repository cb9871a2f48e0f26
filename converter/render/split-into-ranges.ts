import { memoryClass, type Shape } from '../../jobs/shape.ts';

/** A range is this share of the pages that are left, so that ranges shrink and all cores finish together. */
const SHARE = 1 / 4;
/** A separate range costs as much as two pages. This many ordinary pages are converted where they were inspected. */
const MIN_RANGE = 7;
/** A page in a range waits for those before it. */
const MAX_RANGE = 48;

/** Pages that are converted together, and the memory class that they reserve. */
export interface PlannedRange {
  pages: number[];
  memoryMb: number;
}

/** A page and the memory that its conversion needs, in MB. */
export interface PlannedPage {
  page: number;
  memoryMb: number;
}

/**
 * Splits the pages, in order, into ranges of pages that need the same memory class, at least the class of the inspection
 * itself. A single range with the class of the inspection is converted without a split.
 */
export function splitPages(planned: PlannedPage[], inspection: Shape): PlannedRange[] {
  const classified = planned.map(({ page, memoryMb }) => ({
    page,
    memoryMb: memoryClass(Math.max(inspection.memoryMb, memoryMb)),
  }));
  const ranges: PlannedRange[] = [];
  for (let rest = classified; rest[0] !== undefined; ) {
    const { memoryMb } = rest[0];
    const next = rest.slice(0, sizeOfNext(rest.length));
    const other = next.findIndex((page) => page.memoryMb !== memoryMb);
    const pages = (other < 0 ? next : next.slice(0, other)).map(({ page }) => page);
    ranges.push({ memoryMb, pages });
    rest = rest.slice(pages.length);
  }
  return ranges;
}

function sizeOfNext(pagesLeft: number): number {
  if (pagesLeft <= MIN_RANGE) return pagesLeft;
  if (pagesLeft < 2 * MIN_RANGE) return Math.ceil(pagesLeft / 2);
  return Math.min(MAX_RANGE, Math.max(MIN_RANGE, Math.ceil(pagesLeft * SHARE)));
}
