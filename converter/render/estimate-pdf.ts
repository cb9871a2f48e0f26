import { stat } from 'node:fs/promises';
import type { ConversionContext, PdfEngine } from '../../conversion/conversion-task.ts';
import { BASELINE_MB, MAX_CLASS_MB } from '../../jobs/shape.ts';
import { AppError } from '../../runtime/errors.ts';
import { type EmbeddedImage, findImages } from './find-embedded-images.ts';
import { fitScale } from './fit.ts';
import type { PlannedPage } from './plan.ts';

/**
 * How much memory drawing the pages of a PDF takes in all, in MB, before any is drawn. The figures were measured;
 * `npm run bench:memory` says how good they are.
 */

const MB = 2 ** 20;

/** The memory that an engine takes beyond the baseline. */
interface EngineCost {
  /** Code and data, fonts, content; pdf.js is loaded only when it is used. */
  documentMb: number;
  /** How often the whole file is in memory. PDFium's memory grows in steps. */
  fileCopies: number;
  /** For each pixel of the page: its bitmap, what is packed of it, and the PNG; pdf.js makes a copy. */
  rasterBytes: number;
  /** For each pixel of an image on the page. pdf.js decodes all of them to RGBA, and shrinks them from a canvas. */
  imageBytes: Record<EmbeddedImage['kind'], number>;
}

const COSTS: Record<PdfEngine, EngineCost> = {
  pdfium: { documentMb: 65, fileCopies: 1.2, rasterBytes: 8, imageBytes: { other: 5, wide: 5, jpx: 6, bilevel: 0.5 } },
  'pdf-to-img': {
    documentMb: 150,
    fileCopies: 2,
    rasterBytes: 12,
    imageBytes: { other: 25, wide: 34, jpx: 6, bilevel: 10 },
  },
};
/** Images this small altogether are charged to every page; else it is worth to look which page draws which. */
const FEW_MB = 16;

/** pdf.js decodes JPEG 2000 at a lower resolution above this. */
const MAX_JPX_PIXELS = 2 ** 30 / 12;

type Inspection = Pick<ConversionContext<unknown>, 'input' | 'avoid' | 'limits' | 'password' | 'step'>;

/** What each page takes, by its size in points, the dpi, and the images on it. */
export async function estimatePages(
  inspection: Inspection,
  pages: { page: number; width: number; height: number }[],
  dpi: number,
): Promise<PlannedPage[]> {
  const { size } = await stat(inspection.input);
  const { documentMb, fileCopies, rasterBytes } = COSTS[inspection.limits.firstEngine];
  const images = await imagesByPage(
    inspection,
    pages.map(({ page }) => page),
  );
  return pages.map(({ page, ...box }) => {
    const { width, height } = fitScale(box.width, box.height, dpi);
    const pixels = (fileCopies * size + rasterBytes * width * height) / MB;
    return { page, memoryMb: withinClasses(BASELINE_MB + documentMb + pixels + images(page)) };
  });
}

/** What the images of a page take, in MB. Where it cannot be told which page draws which, all are charged the largest. */
async function imagesByPage(inspection: Inspection, pages: number[]): Promise<(page: number) => number> {
  const { input, avoid, limits, password, step } = inspection;
  const bytesFor = COSTS[limits.firstEngine].imageBytes;
  const costOf = ({ width, height, kind }: EmbeddedImage) =>
    (bytesFor[kind] * (kind === 'jpx' ? Math.min(width * height, MAX_JPX_PIXELS) : width * height)) / MB;
  const found = await findImages(input);
  const sumOf = (images: EmbeddedImage[]) => images.reduce((sum, image) => sum + costOf(image), 0);
  const all = sumOf(found);
  if (all <= FEW_MB) return () => all;
  const largest = found.reduce((most, image) => Math.max(most, costOf(image)), 0);
  if (avoid.some(({ page, engine }) => page === null && engine === 'pdfium')) return () => largest;
  try {
    const { openWithPdfium } = await import('./engines/pdfium/document.ts');
    const looking = () => step({ page: null, engine: 'pdfium', last: false });
    looking();
    const document = await openWithPdfium(input, password);
    const bySize = Map.groupBy(found, sizeOf);
    const byPage = new Map<number, number>();
    for (const page of pages) {
      looking();
      const drawn = Map.groupBy(await document.images(page).catch(() => []), sizeOf);
      // An image that is drawn again and again is kept once.
      const kept = [...drawn].map(([size, draws]) =>
        (bySize.get(size) ?? draws.map((image) => ({ ...image, kind: 'other' as const }))).slice(0, draws.length),
      );
      byPage.set(page, sumOf(kept.flat()));
    }
    await document.close();
    return (page) => byPage.get(page) ?? largest;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return () => largest;
  }
}

function sizeOf({ width, height }: { width: number; height: number }): string {
  return `${width} ${height}`;
}

/** What needs more than the largest class is tried with that. */
function withinClasses(megabytes: number): number {
  return Math.min(megabytes, MAX_CLASS_MB);
}
