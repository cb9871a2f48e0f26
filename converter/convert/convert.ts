import { createHash } from 'node:crypto';
import { mkdir, open } from 'node:fs/promises';
import path from 'node:path';
import { AppError, publicError } from '../../errors.ts';
import type { PageOutcome } from '../../jobs/conversion.ts';
import { countPages, parsePages, selectPages } from '../../jobs/pages.ts';
import { pagePath } from '../../store/paths.ts';
import { type ConvertPayload, convert } from '../../tasks/convert.ts';
import { type ConvertRangePayload, convertRange } from '../../tasks/convert-range.ts';
import type { ConversionContext } from '../../tasks/task.ts';
import { fitScale } from './fit.ts';
import { convertImage, encodePng, inspectImage } from './image.ts';
import { openPdf, type PdfDocument } from './pdf.ts';
import { type PlannedPage, planRanges, toRanges } from './plan.ts';

type PageFit = ConvertRangePayload['fits'][number];

/** The job `convert`: inspects the original, then converts it here if it is small, or splits the job into ranges. */
export async function convertOriginal(context: ConversionContext<ConvertPayload>): Promise<Record<string, unknown>> {
  const { media_type, page_selection } = context.payload;
  const selection = page_selection === null ? null : parsePages(page_selection);
  if (media_type !== 'application/pdf') {
    checkPixels(await inspectImage(context.input), context.limits.maxPixels);
    context.inspected({ pageCount: 1, selected: selectPages(selection, 1) });
    await settlePage(context, 1, () => imagePage(context));
    return { pages: 1 };
  }
  const document = await openPdf(context.input, context.password);
  try {
    const selected = selectPages(selection, document.pageCount);
    checkPageCount(countPages(selected), context.limits.maxPages);
    context.inspected({ pageCount: document.pageCount, selected });
    const planned = await planPages(
      context,
      document,
      selected.flatMap(([from, to]) => numbersFrom(from, to)),
    );
    const ranges = planRanges(planned, convert.resources);
    const [first] = ranges;
    if (first === undefined) return { pages: 0 };
    if (ranges.length > 1 || first.shape.memoryMb > convert.resources.memoryMb) {
      context.split(ranges.map((range) => childOf(context.payload, range)));
      return {};
    }
    return await renderPages(context, document, first.pages);
  } finally {
    await document.close();
  }
}

/** The job `convert_range`: renders the pages of its range. */
export async function convertPages(context: ConversionContext<ConvertRangePayload>): Promise<Record<string, unknown>> {
  const { pages, fits } = context.payload;
  const numbers = pages.flatMap(([from, to]) => numbersFrom(from, to));
  const document = await openPdf(context.input, context.password);
  try {
    return await renderPages(
      context,
      document,
      numbers.map((page, index) => ({ page, fit: fits[index] as PageFit })),
    );
  } finally {
    await document.close();
  }
}

/** Sizes every page; one whose size cannot be read fails by itself. */
async function planPages(
  context: ConversionContext<ConvertPayload>,
  document: PdfDocument,
  numbers: number[],
): Promise<PlannedPage[]> {
  const planned: PlannedPage[] = [];
  for (const page of numbers) {
    try {
      const box = await document.pageBox(page);
      planned.push({ page, fit: fitScale(box.width, box.height, context.payload.dpi) });
    } catch (error) {
      context.page({ page, status: 'failed', error: publicError(error) });
    }
  }
  return planned;
}

async function renderPages(
  context: ConversionContext<ConvertPayload> | ConversionContext<ConvertRangePayload>,
  document: PdfDocument,
  pages: { page: number; fit: PageFit }[],
): Promise<Record<string, unknown>> {
  for (const { page, fit } of pages) {
    await settlePage(context, page, async () => {
      const raw = await document.render(page, fit.scale);
      const png = await encodePng(raw);
      return { png, width: raw.width, height: raw.height, dpi: fit.dpi, reduced: fit.reduced, engine: 'pdf-to-img' };
    });
  }
  return { pages: pages.length };
}

async function imagePage(context: ConversionContext<ConvertPayload>) {
  const { png, width, height } = await convertImage(context.input);
  return { png, width, height, dpi: null, reduced: null, engine: 'sharp' };
}

/** Makes one page, unless an earlier attempt did. A page that cannot be made fails by itself and leaves the others alone. */
async function settlePage(
  context: ConversionContext<ConvertPayload> | ConversionContext<ConvertRangePayload>,
  page: number,
  make: () => Promise<
    { png: Buffer } & Pick<PageOutcome & { status: 'completed' }, 'width' | 'height' | 'dpi' | 'reduced' | 'engine'>
  >,
): Promise<void> {
  if (context.settledPages.includes(page)) return;
  try {
    const { png, ...facts } = await make();
    const storePath = pagePath(context.payload.upload_id, context.payload.original, page, String(context.attempt));
    await writeSynced(context.output(storePath), png);
    const sha256 = createHash('sha256').update(png).digest('hex');
    context.page({ page, status: 'completed', path: storePath, bytes: png.length, sha256, ...facts });
  } catch (error) {
    // An unreadable page is the file's fault; anything else (a full disk, say) is ours, and worth another attempt.
    if (!(error instanceof AppError) || error.retryable) throw error;
    context.page({ page, status: 'failed', error: publicError(error) });
  }
}

function childOf(payload: ConvertPayload, { pages, shape }: ReturnType<typeof planRanges>[number]) {
  const { upload_id, original, path, media_type } = payload;
  const fits = pages.map(({ fit: { scale, dpi, reduced } }) => ({ scale, dpi, reduced }));
  const range: ConvertRangePayload = {
    upload_id,
    original,
    path,
    media_type,
    pages: toRanges(pages.map(({ page }) => page)),
    fits,
  };
  return { type: convertRange.type, payload: range, shape };
}

function checkPageCount(count: number, maxPages: number): void {
  if (count > maxPages) throw new AppError('too_many_pages', `${count} pages, more than the ${maxPages} allowed`);
}

function checkPixels({ width, height }: { width: number; height: number }, maxPixels: number): void {
  if (width * height > maxPixels) {
    throw new AppError('too_many_pixels', `${width} x ${height} pixels, more than the ${maxPixels} allowed`);
  }
}

function numbersFrom(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

/** A file that is complete on disk before anybody is told of it. */
async function writeSynced(file: string, data: Buffer): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  const handle = await open(file, 'w');
  try {
    await handle.writeFile(data);
    await handle.sync();
  } finally {
    await handle.close();
  }
}
