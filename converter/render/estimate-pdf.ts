import { stat } from 'node:fs/promises';
import type { ConversionContext, PdfEngine } from '../../conversion/conversion-task.ts';
import { BASELINE_MB, MAX_CLASS_MB } from '../../jobs/shape.ts';
import { AppError } from '../../runtime/errors.ts';
import type { ImageSize } from './engines/pdfium/images.ts';
import { type EmbeddedImage, findImages } from './find-embedded-images.ts';
import { fitScale } from './fit.ts';
import type { PlannedPage } from './split-into-ranges.ts';

/**
 * Estimates the memory that drawing the pages of a PDF needs, before any is drawn. The figures were measured;
 * `npm run bench:memory` compares them with the memory that pages use.
 */

const MB = 2 ** 20;

/** The memory that an engine needs beyond the baseline. */
interface EngineCost {
  /** Code and data, fonts, content; pdf.js is loaded only when it is used. */
  documentMb: number;
  /** How many times the file is in memory. PDFium's memory grows in steps. */
  fileCopies: number;
  /** For each pixel of the page: its bitmap, the packed pixels and the PNG; pdf.js makes a copy. */
  rasterBytes: number;
  /** For each pixel of an image on the page. pdf.js decodes every image to RGBA, and shrinks it from a canvas. */
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
/** Images that need no more than this together are charged to every page, without a search for the page of each. */
const FEW_MB = 16;

/** pdf.js decodes JPEG 2000 at a lower resolution above this. */
const MAX_JPX_PIXELS = 2 ** 30 / 12;

type Inspection = Pick<ConversionContext<unknown>, 'input' | 'failedSteps' | 'limits' | 'password' | 'step' | 'log'>;

/** The memory that each page needs, by its size in points, the dpi, and the images on it. */
export async function estimatePages(
  inspection: Inspection,
  pages: { page: number; width: number; height: number }[],
  dpi: number,
): Promise<PlannedPage[]> {
  const { size } = await stat(inspection.input);
  const { documentMb, fileCopies, rasterBytes } = COSTS[inspection.limits.firstEngine];
  const numbers = pages.map(({ page }) => page);
  const imagesMb = await estimateImages(inspection, numbers);
  return pages.map(({ page, ...box }) => {
    const { width, height } = fitScale(box.width, box.height, dpi);
    const pixelsMb = (fileCopies * size + rasterBytes * width * height) / MB;
    // A page that needs more than the largest class is tried with the largest class.
    const memoryMb = Math.min(BASELINE_MB + documentMb + pixelsMb + imagesMb(page), MAX_CLASS_MB);
    return { page, memoryMb };
  });
}

/** The memory that the images of a page need. A page whose images are unknown is charged the largest of the file. */
async function estimateImages(inspection: Inspection, pages: number[]): Promise<(page: number) => number> {
  const imageBytes = COSTS[inspection.limits.firstEngine].imageBytes;
  const costOf = ({ width, height, kind }: EmbeddedImage) => {
    const pixels = kind === 'jpx' ? Math.min(width * height, MAX_JPX_PIXELS) : width * height;
    return (imageBytes[kind] * pixels) / MB;
  };
  const sumOf = (images: EmbeddedImage[]) => images.reduce((sum, image) => sum + costOf(image), 0);
  const images = await findImages(inspection.input);
  const allMb = sumOf(images);
  if (allMb <= FEW_MB) return () => allMb;
  const largestMb = images.reduce((largest, image) => Math.max(largest, costOf(image)), 0);
  const sizesByPage = await findDrawnSizes(inspection, pages);
  const imagesBySize = Map.groupBy(images, keyOf);
  return (page) => {
    const sizes = sizesByPage.get(page);
    if (sizes === undefined) return largestMb;
    const drawn = [...Map.groupBy(sizes, keyOf)].map(([key, draws]) => {
      const known = imagesBySize.get(key) ?? draws.map((size) => ({ ...size, kind: 'other' as const }));
      // An image that is drawn several times is kept once.
      return known.slice(0, draws.length);
    });
    return sumOf(drawn.flat());
  };
}

/** The sizes of the images that each page draws, as PDFium lists them. Pages that it cannot read are missing. */
async function findDrawnSizes(inspection: Inspection, pages: number[]): Promise<Map<number, ImageSize[]>> {
  const { input, failedSteps, password, step } = inspection;
  const sizesByPage = new Map<number, ImageSize[]>();
  if (failedSteps.some(({ page, engine }) => page === null && engine === 'pdfium')) return sizesByPage;
  const { openWithPdfium } = await import('./engines/pdfium/document.ts');
  const reportStep = () => step({ page: null, engine: 'pdfium', last: false });
  reportStep();
  const document = await orLogged(inspection, 'the file', () => openWithPdfium(input, password));
  if (document === undefined) return sizesByPage;
  try {
    for (const page of pages) {
      reportStep();
      const sizes = await orLogged(inspection, `page ${page}`, () => document.images(page));
      if (sizes !== undefined) sizesByPage.set(page, sizes);
    }
  } finally {
    await document.close();
  }
  return sizesByPage;
}

/** The result of work with PDFium, or undefined and a line in the log of the job where PDFium cannot read the file. */
async function orLogged<T>({ log }: Inspection, what: string, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    log('warn', `memory is estimated without the images of ${what}: ${error.message}`, { code: error.code });
    return undefined;
  }
}

function keyOf({ width, height }: ImageSize): string {
  return `${width} ${height}`;
}
