import { AppError } from '../../../errors.ts';
import type { ConversionContext, PdfEngine } from '../../../tasks/task.ts';
import { fitScale } from '../fit.ts';

/** The size of a page in points, as it is shown: turned by its rotation, multiplied by its UserUnit. */
export interface PageBox {
  width: number;
  height: number;
}

/** Opaque RGBA pixels, row by row from the top. */
export interface RawImage {
  data: Uint8Array;
  width: number;
  height: number;
  channels: 4;
}

/** An open PDF; pages count from 1. Calls may overlap, but run one after the other. */
export interface PdfDocument {
  pageCount: number;
  /** Throws AppError `corrupt_file` for a page that cannot be read. */
  pageBox(page: number): Promise<PageBox>;
  /** Draws a page on white at `scale` pixels per point. Throws AppError `corrupt_file` for a page that cannot be drawn. */
  render(page: number, scale: number): Promise<RawImage>;
  close(): Promise<void>;
}

const OPEN: Record<PdfEngine, (file: string, password: string | null) => Promise<PdfDocument>> = {
  'pdf-to-img': async (file, password) => (await import('./pdf-to-img/document.ts')).openWithPdfToImg(file, password),
  pdfium: async (file, password) => (await import('./pdfium/document.ts')).openWithPdfium(file, password),
};

type Opening = Pick<ConversionContext<unknown>, 'input' | 'password' | 'avoid' | 'limits' | 'step'>;
export type TwoEngines = Awaited<ReturnType<typeof openPdf>>;

/**
 * Opens a PDF file with two renderers, the second only where the first cannot open the file, read a page or draw it, or
 * did not survive that in this attempt. When neither can, the first one's error counts: AppError `encrypted_pdf`,
 * `wrong_password`, `corrupt_file`, or what `avoid` says.
 */
export async function openPdf({ input, password, avoid, limits, step }: Opening) {
  const engines: PdfEngine[] = limits.firstEngine === 'pdfium' ? ['pdfium', 'pdf-to-img'] : ['pdf-to-img', 'pdfium'];
  const opened = new Map<PdfEngine, Promise<PdfDocument>>();
  /** The one whose count of the pages holds. */
  let main: PdfEngine | undefined;
  const deadly = (page: number | null, engine: PdfEngine) =>
    avoid.find((fatal) => fatal.engine === engine && (fatal.page === page || fatal.page === null));
  const hasSubstitute = (page: number | null, engine: PdfEngine) =>
    engines.slice(engines.indexOf(engine) + 1).some((other) => !deadly(page, other));

  function open(engine: PdfEngine): Promise<PdfDocument> {
    const known = opened.get(engine);
    if (known !== undefined) return known;
    step({ page: null, engine, last: opened.size === 0 && !hasSubstitute(null, engine) });
    const opening = OPEN[engine](input, password);
    opened.set(engine, opening);
    return opening;
  }

  async function ask<T>(
    page: number | null,
    work: (document: PdfDocument, engine: PdfEngine) => Promise<T>,
  ): Promise<T> {
    let first: unknown;
    for (const engine of engines) {
      const fatal = deadly(page, engine);
      try {
        if (fatal) throw new AppError(fatal.error.code, fatal.error.message);
        const document = await open(engine);
        if (page !== null) {
          if (page > document.pageCount) throw new AppError('corrupt_file', `page ${page} cannot be read`);
          step({ page, engine, last: !hasSubstitute(page, engine) });
          // Where the tree of pages is broken another engine counts otherwise, and runs out of pages before the last.
          if (engine !== main) await document.pageBox(document.pageCount);
        }
        return await work(document, engine);
      } catch (error) {
        first ??= error;
        if (!fatal && !isOfFile(error)) throw first;
      }
    }
    throw first;
  }

  const pageCount = await ask(null, async (document, engine) => {
    main = engine;
    return document.pageCount;
  });
  return {
    pageCount,
    pageBox: (page: number) => ask(page, (document) => document.pageBox(page)),
    /** Draws a page at `dpi`, or at what fits. Says by which engine, and how it fits. */
    draw: (page: number, dpi: number) =>
      ask(page, async (document, engine) => {
        const box = await document.pageBox(page);
        const fit = fitScale(box.width, box.height, dpi);
        const raw = await document.render(page, fit.scale);
        // PDFium makes a white page of what is none: a substitute is believed only if it drew something.
        if (engine !== main && raw.data.every((value) => value === 255)) {
          throw new AppError('corrupt_file', `page ${page} cannot be drawn`);
        }
        return { raw, fit, engine };
      }),
    async close(): Promise<void> {
      for (const opening of opened.values()) await opening.then((document) => document.close(), ignore);
    },
  };
}

/** What another engine may see otherwise. A password is as wrong for both, and memory or a disk as short. */
function isOfFile(error: unknown): boolean {
  return error instanceof AppError && error.code === 'corrupt_file';
}

function ignore(): void {}

/** A file that cannot be read from disk says nothing about what is in it. */
export function isOfSystem(cause: unknown): boolean {
  return typeof cause === 'object' && cause !== null && 'syscall' in cause;
}

export function outOfMemory(cause: unknown): AppError {
  return new AppError('out_of_memory', 'the PDF needs more memory than was reserved', { retryable: true, cause });
}

/** Makes calls wait for those before them: no renderer works at two pages at a time. */
export function oneAfterTheOther() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work, work);
    last = result;
    return result;
  };
}
