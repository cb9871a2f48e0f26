import { writeFile } from 'node:fs/promises';
import type { ConversionContext } from '../../conversion/conversion-task.ts';
import { countPages, pagesIn, parsePages, selectPages, toRanges } from '../../conversion/page-ranges.ts';
import type { PageReport } from '../../conversion/record-pages.ts';
import type { ConvertPayload } from '../../conversion/tasks/convert.ts';
import type { ConvertRangePayload } from '../../conversion/tasks/convert-range.ts';
import { memoryClass } from '../../jobs/shape.ts';
import { AppError, publicError } from '../../runtime/errors.ts';
import { encodePng } from './encode-png.ts';
import { openPdf, type TwoEngines } from './engines/fallback.ts';
import { estimateImage } from './estimate-image.ts';
import { estimatePages } from './estimate-pdf.ts';
import { convertImage, inspectImage } from './image.ts';
import { useThreads } from './libvips.ts';
import { type PlannedRange, planRanges } from './plan.ts';

type Context = ConversionContext<ConvertPayload> | ConversionContext<ConvertRangePayload>;
type MadePage = { png: Buffer[] } & Omit<PageReport & { status: 'completed' }, 'page' | 'status'>;

/**
 * The job `convert`: inspects the original, then converts it here if its reservation holds that, or splits the job
 * into ranges that reserve what they need.
 */
export async function convertOriginal(given: ConversionContext<ConvertPayload>): Promise<Record<string, unknown>> {
  const context = withChosenEngine(given);
  const { media_type, page_selection } = context.payload;
  const selection = page_selection === null ? null : parsePages(page_selection);
  return media_type === 'application/pdf'
    ? withPdf(context, (document) => inspectPdf(context, document, selection))
    : inspectPicture(context, selection);
}

/** The job `convert_range`: converts the pages of its range. */
export async function convertPages(given: ConversionContext<ConvertRangePayload>): Promise<Record<string, unknown>> {
  const context = withChosenEngine(given);
  const { media_type, pages } = context.payload;
  return media_type === 'application/pdf'
    ? withPdf(context, (document) => drawPages(context, document, pagesIn(pages)))
    : convertPicture(context);
}

/** The engine that the client chose comes first, before the one that the converter prefers. */
function withChosenEngine<C extends Context>(context: C): C {
  const { payload, limits } = context;
  return payload.engine === null ? context : { ...context, limits: { ...limits, firstEngine: payload.engine } };
}

async function inspectPicture(
  context: ConversionContext<ConvertPayload>,
  selection: ReturnType<typeof parsePages> | null,
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
  return convertPicture(context);
}

async function convertPicture(context: Context): Promise<Record<string, unknown>> {
  useThreads(context.reservation.cpuUnits);
  await settlePage(context, 1, async () => {
    const fatal = context.avoid.find(({ engine }) => engine === 'sharp');
    if (fatal) throw new AppError(fatal.error.code, fatal.error.message);
    context.step({ page: 1, engine: 'sharp', last: true });
    return { ...(await convertImage(context.input)), dpi: null, reduced: null, engine: 'sharp', note: null };
  });
  return { pages: 1 };
}

async function withPdf<T>(context: Context, work: (document: TwoEngines) => Promise<T>): Promise<T> {
  const document = await openPdf(context);
  try {
    return await work(document);
  } finally {
    await document.close();
  }
}

async function inspectPdf(
  context: ConversionContext<ConvertPayload>,
  document: TwoEngines,
  selection: ReturnType<typeof parsePages> | null,
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
    // One whose size cannot be read fails by itself.
    const box = await orFailed(context, page, () => document.pageBox(page));
    if (box !== undefined) sized.push({ page, ...box });
  }
  const ranges = planRanges(await estimatePages(context, sized, payload.dpi), reservation);
  const [first] = ranges;
  if (first === undefined) return { pages: 0 };
  if (ranges.length > 1 || first.memoryMb > reservation.memoryMb) return splitInto(context, ranges);
  return drawPages(context, document, first.pages);
}

async function drawPages(context: Context, document: TwoEngines, pages: number[]): Promise<Record<string, unknown>> {
  useThreads(context.reservation.cpuUnits);
  for (const page of pages) {
    await settlePage(context, page, async () => {
      const { image, fit, engine, note } = await document.draw(page, context.payload.dpi);
      const png = await encodePng(image);
      return { png, width: image.width, height: image.height, dpi: fit.dpi, reduced: fit.reduced, engine, note };
    });
    // V8 does not see how large the pixels are that wait to be collected: left to it, up to three pages of them.
    globalThis.gc?.({ type: 'minor' });
  }
  return { pages: pages.length };
}

/** Makes one page, unless an earlier attempt did. */
async function settlePage(context: Context, page: number, make: () => Promise<MadePage>): Promise<void> {
  if (context.settledPages.includes(page)) return;
  await orFailed(context, page, async () => {
    const { png, ...facts } = await make();
    await writeFile(context.pageOutput(page), png);
    context.page({ page, status: 'completed', ...facts });
  });
}

/** A page that cannot be read or made fails by itself and leaves the others alone. */
async function orFailed<T>(context: Context, page: number, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    // An unreadable page is the file's fault; anything else (a full disk, say) is ours, and worth another attempt.
    if (!(error instanceof AppError) || error.retryable) throw error;
    context.page({ page, status: 'failed', error: publicError(error) });
    return undefined;
  }
}

function splitInto(context: ConversionContext<ConvertPayload>, ranges: PlannedRange[]): Record<string, unknown> {
  context.split(ranges.map(({ pages, memoryMb }) => ({ pages: toRanges(pages), memoryMb })));
  return {};
}
