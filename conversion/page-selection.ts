import type { PageRange } from '../db/schema.ts';
import { AppError } from '../runtime/errors.ts';

export const MAX_SELECTION_LENGTH = 1000;
const MAX_PAGE = 1_000_000;

/**
 * Parses a selection of pages such as `1-3,7` into ascending ranges that neither overlap nor touch. Throws
 * `invalid_request` (400) that names the invalid part.
 */
export function parsePages(text: string): PageRange[] {
  if (text.length > MAX_SELECTION_LENGTH) throw invalid(`longer than ${MAX_SELECTION_LENGTH} characters`);
  const ranges = text.split(',').map(parseRange);
  const merged: PageRange[] = [];
  for (const range of ranges.sort(([a], [b]) => a - b)) {
    const last = merged.at(-1);
    if (last && range[0] <= last[1] + 1) last[1] = Math.max(last[1], range[1]);
    else merged.push(range);
  }
  return merged;
}

/**
 * The ranges to convert of a document of `pageCount` pages; null selects all pages. Throws `page_out_of_range` that names
 * the first missing page.
 */
export function selectPages(ranges: PageRange[] | null, pageCount: number): PageRange[] {
  if (ranges === null) return [[1, pageCount]];
  const beyond = ranges.find(([, to]) => to > pageCount);
  if (!beyond) return ranges;
  const page = Math.max(beyond[0], pageCount + 1);
  throw new AppError(
    'page_out_of_range',
    `page ${page} does not exist: the document has ${pageCount === 1 ? '1 page' : `${pageCount} pages`}`,
  );
}

function parseRange(part: string): PageRange {
  const [, first, last = first] = /^\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?$/.exec(part) ?? [];
  if (first === undefined || last === undefined) throw invalid(`${JSON.stringify(part)} is neither a page nor a range`);
  const [from, to] = [Number(first), Number(last)];
  if (from < 1) throw invalid('pages count from 1');
  if (to > MAX_PAGE || from > MAX_PAGE) throw invalid(`${Math.max(from, to)} is more than ${MAX_PAGE}`);
  if (from > to) throw invalid(`${from}-${to} is descending`);
  return [from, to];
}

function invalid(reason: string): AppError {
  return new AppError('invalid_request', `${reason}; write for example 1-3,7`, { status: 400 });
}

/** The number of pages in a list of ranges. */
export function countPages(ranges: PageRange[]): number {
  return ranges.reduce((sum, [from, to]) => sum + to - from + 1, 0);
}

/** The pages in a list of ranges. */
export function pagesIn(ranges: PageRange[]): number[] {
  return ranges.flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, index) => from + index));
}

/** Page numbers in ascending order as ranges. */
export function toRanges(numbers: number[]): PageRange[] {
  const ranges: PageRange[] = [];
  for (const page of numbers) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === page - 1) last[1] = page;
    else ranges.push([page, page]);
  }
  return ranges;
}
