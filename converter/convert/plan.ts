import type { PageRange } from '../../db/schema.ts';
import { memoryClass, type Shape } from '../../jobs/shape.ts';
import type { fitScale } from './fit.ts';

/** Up to this many pages of ordinary size are converted where they were inspected. */
const ONE_HOP_PAGES = 2;
/** Ranges shrink towards the end, each this part of what is left, so that all cores finish together. */
const SHARE = 1 / 4;
const SMALLEST_RANGE = 2;
/** A range that fails is done again as a whole, and a page that waits in one waits for those before it. */
const LARGEST_RANGE = 24;

/** What a sandbox uses before the first page: its own baseline, and an opened document. */
const BASE_MB = 105 + 80;
/** The canvas, its copy as raw pixels, and what the encoder holds. */
const RASTER_COPIES = 3.5;

type PdfFit = ReturnType<typeof fitScale>;

export interface PlannedPage {
  page: number;
  fit: PdfFit;
}

export interface PlannedRange {
  shape: Shape;
  pages: PlannedPage[];
}

/** Memory in MB that rendering a page of this size takes, by its raster alone. */
function estimateMb({ width, height }: PdfFit): number {
  return BASE_MB + (RASTER_COPIES * width * height * 4) / 2 ** 20;
}

/**
 * Cuts the pages into ranges, in order, each reserving what its largest page needs. One range of the shape that the
 * inspection already holds means: convert it there and then.
 */
export function planRanges(pages: PlannedPage[], own: Shape): PlannedRange[] {
  const ranges: PlannedRange[] = [];
  for (let at = 0; at < pages.length; at += ranges.at(-1)?.pages.length ?? 0) {
    const left = pages.length - at;
    const size = left <= ONE_HOP_PAGES ? left : clamp(Math.ceil(left * SHARE), SMALLEST_RANGE, LARGEST_RANGE);
    const chunk = pages.slice(at, at + size);
    const memoryMb = memoryClass(Math.max(own.memoryMb, ...chunk.map(({ fit }) => estimateMb(fit))));
    ranges.push({ shape: { cpuUnits: 1, memoryMb }, pages: chunk });
  }
  return ranges;
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

function clamp(value: number, smallest: number, largest: number): number {
  return Math.min(largest, Math.max(smallest, value));
}
