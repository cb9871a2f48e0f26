import type { PageRange } from '../../db/schema.ts';
import { memoryClass, type Shape } from '../../jobs/shape.ts';
import type { fitScale } from './fit.ts';

/** Up to this many pages of ordinary size are converted where they were inspected. */
const ONE_HOP_PAGES = 2;
/** Enough ranges to keep eight cores busy; large enough that opening the file again does not count. */
const RANGES = 8;
const SMALLEST_RANGE = 4;
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
  const size =
    pages.length <= ONE_HOP_PAGES
      ? ONE_HOP_PAGES
      : Math.min(LARGEST_RANGE, Math.max(SMALLEST_RANGE, Math.ceil(pages.length / RANGES)));
  const ranges: PlannedRange[] = [];
  for (let at = 0; at < pages.length; at += size) {
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
