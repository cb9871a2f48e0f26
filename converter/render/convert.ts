import { writeFile } from 'node:fs/promises';
import type { ConversionContext } from '../../conversion/conversion-task.ts';
import { countPages, pagesIn, parsePages, selectPages, toRanges } from '../../conversion/page-selection.ts';
import type { PageReport } from '../../conversion/record-pages.ts';
import type { ConvertPayload } from '../../conversion/tasks/convert.ts';
import type { ConvertRangePayload } from '../../conversion/tasks/convert-range.ts';
import { memoryClass } from '../../jobs/shape.ts';
import { AppError, publicError } from '../../runtime/errors.ts';
import { convertImage } from './convert-image.ts';
import { encodePng } from './encode-png.ts';
import { type FallbackDocument, openPdf } from './engines/fallback.ts';
import { estimateImage } from './estimate-image.ts';
import { estimatePages } from './estimate-pdf.ts';
import { inspectImage } from './inspect-image.ts';
import { useThreads } from './libvips.ts';
import { type PlannedRange, splitPages } from './split-into-ranges.ts';

type Context = ConversionContext<ConvertPayload> | ConversionContext<ConvertRangePayload>;
type Selection = ReturnType<typeof parsePages> | null;
type ConvertedPage = { png: Buffer[] } & Omit<PageReport & { status: 'completed' }, 'page' | 'status'>;

/**
 * The job `convert`: inspects the original, and converts it within its reservation or splits the job into ranges that
 * reserve more.
 */
export async function convertOriginal(given: ConversionContext<ConvertPayload>): Promise<Record<string, unknown>> {
  const context = withChosenEngine(given);
  const { media_type, page_selection } = context.payload;
  const selection = page_selection === null ? null : parsePages(page_selection);
  return media_type === 'application/pdf'
    ? withPdf(context, (document) => inspectAndConvertPdf(context, document, selection))
    : inspectAndConvertImage(context, selection);
}

/** The job `convert_range`: converts the pages of its range. */
export async function convertPages(given: ConversionContext<ConvertRangePayload>): Promise<Record<string, unknown>> {
  const context = withChosenEngine(given);
  const { media_type, pages } = context.payload;
  return media_type === 'application/pdf'
    ? withPdf(context, (document) => drawPages(context, document, pagesIn(pages)))
    : convertSinglePage(context);
}

/** The engine that the client chose draws first, instead of the default of the converter. */
function withChosenEngine<C extends Context>(context: C): C {
  const { payload, limits } = context;
  return payload.engine === null ? context : { ...context, limits: { ...limits, firstEngine: payload.engine } };
}

async function inspectAndConvertImage(
  context: ConversionContext<ConvertPayload>,
  selection: Selection,
): Promise<Record<string, unknown>> {
  const header = await inspectImage(context.input);
  const { width, height } = header;
  if (width * height > context.limits.maxPixels) {
    const message = `${width} x ${height} pixels, more than the ${context.limits.maxPixels} allowed`;
    throw new AppError('too_many_pixels', message);
  }
  context.inspected({ pageCount: 1, selected: selectPages(selection, 1) });
  const memoryMb = memoryClass(estimateImage(header));
  if (memoryMb > context.reservation.memoryMb) {
    return splitInto(context, [{ pages: [1], memoryMb }]);
  }
  return convertSinglePage(context);
}

async function convertSinglePage(context: Context): Promise<Record<string, unknown>> {
  useThreads(context.reservation.cpuUnits);
  await convertPage(context, 1, async () => {
    const failure = context.failedSteps.find(({ engine }) => engine === 'sharp');
    if (failure) throw new AppError(failure.error.code, failure.error.message);
    context.step({ page: 1, engine: 'sharp', last: true });
    return { ...(await convertImage(context.input)), dpi: null, reduced: null, engine: 'sharp', note: null };
  });
  return { pages: 1 };
}

async function withPdf<T>(context: Context, work: (document: FallbackDocument) => Promise<T>): Promise<T> {
  const document = await openPdf(context);
  try {
    return await work(document);
  } finally {
    await document.close();
  }
}

async function inspectAndConvertPdf(
  context: ConversionContext<ConvertPayload>,
  document: FallbackDocument,
  selection: Selection,
): Promise<Record<string, unknown>> {
  const { limits, payload, reservation } = context;
  const selected = selectPages(selection, document.pageCount);
  const count = countPages(selected);
  if (count > limits.maxPages) {
    throw new AppError('too_many_pages', `${count} pages, more than the ${limits.maxPages} allowed`);
  }
  context.inspected({ pageCount: document.pageCount, selected });
  const sized: { page: number; width: number; height: number }[] = [];
  for (const page of pagesIn(selected)) {
    if (context.settledPages.includes(page)) continue;
    const box = await orReportFailure(context, page, () => document.pageBox(page));
    if (box !== undefined) sized.push({ page, ...box });
  }
  const ranges = splitPages(await estimatePages(context, sized, payload.dpi), reservation);
  const [first] = ranges;
  if (first === undefined) return { pages: 0 };
  if (ranges.length > 1 || first.memoryMb > reservation.memoryMb) return splitInto(context, ranges);
  return drawPages(context, document, first.pages);
}

async function drawPages(
  context: Context,
  document: FallbackDocument,
  pages: number[],
): Promise<Record<string, unknown>> {
  useThreads(context.reservation.cpuUnits);
  for (const page of pages) {
    await convertPage(context, page, async () => {
      const { image, fit, engine, note } = await document.draw(page, context.payload.dpi);
      const png = await encodePng(image);
      return { png, width: image.width, height: image.height, dpi: fit.dpi, reduced: fit.reduced, engine, note };
    });
    // V8 does not see the size of uncollected pixels, and would keep up to three pages of them.
    globalThis.gc?.({ type: 'minor' });
  }
  return { pages: pages.length };
}

/** Converts one page, unless an earlier attempt did. */
async function convertPage(context: Context, page: number, convert: () => Promise<ConvertedPage>): Promise<void> {
  if (context.settledPages.includes(page)) return;
  await orReportFailure(context, page, async () => {
    const { png, ...facts } = await convert();
    await writeFile(context.pageOutput(page), png);
    context.page({ page, status: 'completed', ...facts });
  });
}

/** Reports a page that cannot be read or converted as failed; other pages are not affected. */
async function orReportFailure<T>(context: Context, page: number, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    // Other errors (a full disk, for example) are not about the file, so the attempt fails and is retried.
    if (!(error instanceof AppError) || error.retryable) throw error;
    context.page({ page, status: 'failed', error: publicError(error) });
    return undefined;
  }
}

function splitInto(context: ConversionContext<ConvertPayload>, ranges: PlannedRange[]): Record<string, unknown> {
  context.split(ranges.map(({ pages, memoryMb }) => ({ pages: toRanges(pages), memoryMb })));
  return {};
}
