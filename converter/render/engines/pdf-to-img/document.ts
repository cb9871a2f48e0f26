import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { type Options, type Pdf, pdf } from 'pdf-to-img';
import { AppError, isOutOfMemory } from '../../../../runtime/errors.ts';
import {
  type DrawnPage,
  isFileSystemError,
  oneAfterTheOther,
  outOfMemory,
  type PageBox,
  type PdfDocument,
} from '../engine.ts';
import { CanvasFactory, type CreateCanvas, Measured } from './canvas-factory.ts';
import { HiddenErrors, Stuck } from './hidden-errors.ts';
import { withLocalFiles } from './local-files.ts';
import { type FontRegistry, registerFonts } from './substitute-fonts.ts';

// pdf.js takes its canvas from Node's own require, and draws paths only with that copy, under a test runner too.
const { createRequire } = process.getBuiltinModule('node:module');
const pdfToImg = createRequire(import.meta.url).resolve('pdf-to-img');
const pdfjs = new URL('.', pathToFileURL(createRequire(pdfToImg).resolve('pdfjs-dist/package.json')));
const { createCanvas, GlobalFonts }: CanvasLibrary = createRequire(pdfjs)('@napi-rs/canvas');

interface CanvasLibrary {
  createCanvas: CreateCanvas;
  GlobalFonts: FontRegistry;
}
type DocInitParams = NonNullable<Options['docInitParams']>;
type Worker = NonNullable<DocInitParams['worker']>;
interface PdfJs {
  PDFWorker: new (options: { verbosity: number }) => Worker;
}

const WARNINGS = 1;

/** pdf.js keeps the fonts and images of all pages that it drew. It frees them when the document is opened again. */
const MAX_KEPT_BYTES = 64 * 2 ** 20;

/**
 * Opens a PDF file, of which pdf.js keeps all bytes in memory. Throws AppError `encrypted_pdf` for an encrypted file
 * without a password, `wrong_password`, `unsupported_feature` for unknown encryption, or `corrupt_file` for a file that
 * cannot be read or has no pages.
 */
export async function openWithPdfToImg(file: string, password: string | null): Promise<PdfDocument> {
  registerFonts(GlobalFonts);
  const document = new Document(file, password);
  const pageCount = await document.open().catch(async (cause) => {
    await document.close();
    throw await openingError(cause, file, password);
  });
  if (!Number.isInteger(pageCount) || pageCount < 1) {
    await document.close();
    throw new AppError('corrupt_file', 'the PDF has no pages');
  }
  const inTurn = oneAfterTheOther();
  return {
    pageCount,
    pageBox: (page) => inTurn(() => document.pageBox(page)),
    render: (page, scale) => inTurn(() => document.render(page, scale)),
    close: () => inTurn(() => document.close()),
  };
}

/** A file that pdf.js opens again when it keeps too much memory. */
class Document {
  readonly #file: string;
  readonly #canvases = new CanvasFactory(createCanvas);
  readonly #errors = new HiddenErrors();
  /** pdf-to-img reads the scale for each page. */
  readonly #options: { scale: number; docInitParams: DocInitParams };
  #opened: { pdf: Pdf; worker: Worker } | undefined;
  /** Resident memory when the file was opened. */
  #residentBefore = 0;

  constructor(file: string, password: string | null) {
    this.#file = file;
    this.#options = { scale: 1, docInitParams: docInitParams(password, this.#canvases) };
  }

  /** Returns the number of pages as the file states it, which may be negative. */
  async open(): Promise<number> {
    return (await this.#pdf()).length;
  }

  async pageBox(page: number): Promise<PageBox> {
    const outcome = await this.#getPage(page, 'measure', 1).catch((error) => error);
    if (outcome instanceof Measured) return { width: outcome.width, height: outcome.height };
    throw pageError(page, 'read', outcome);
  }

  async render(page: number, scale: number): Promise<DrawnPage> {
    try {
      if (process.memoryUsage.rss() > this.#residentBefore + MAX_KEPT_BYTES) await this.#forget();
      const { result: data, complaints } = await this.#getPage(page, 'draw', scale);
      return { data, ...this.#canvases.pageSize, channels: 4, complaints };
    } catch (cause) {
      throw pageError(page, 'drawn', cause);
    } finally {
      this.#canvases.release();
    }
  }

  async close(): Promise<void> {
    await this.#forget();
    await this.#errors.stop();
  }

  async #forget(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await opened?.pdf.destroy();
    opened?.worker.destroy();
  }

  async #getPage(page: number, use: 'draw' | 'measure', scale: number) {
    const pdf = await this.#pdf();
    this.#canvases.next = use;
    this.#options.scale = scale;
    return this.#run(() => pdf.getPage(page));
  }

  async #pdf(): Promise<Pdf> {
    if (this.#opened !== undefined) return this.#opened.pdf;
    const worker = await startWorker(this.#errors);
    const options = this.#options;
    options.docInitParams = { ...options.docInitParams, worker };
    const { result } = await this.#run(() => pdf(this.#file, options));
    this.#opened = { pdf: result, worker };
    this.#residentBefore = process.memoryUsage.rss();
    return result;
  }

  async #run<T>(work: () => Promise<T>) {
    try {
      return await withLocalFiles(pdfjs, () => this.#errors.run(work));
    } catch (error) {
      // Closing would wait for the page.
      if (error instanceof Stuck) this.#opened = undefined;
      throw error;
    }
  }
}

/** pdf.js without network (every URL is a folder of its package), scripts and XFA forms. */
function docInitParams(password: string | null, canvases: CanvasFactory): DocInitParams {
  const folder = (name: string) => new URL(`${name}/`, pdfjs).href;
  return {
    ...(password !== null && { password }),
    // pdf.js calls this with `new`, which returns the object that the function returns.
    CanvasFactory: function factory() {
      return canvases;
    },
    cMapUrl: folder('cmaps'),
    iccUrl: folder('iccs'),
    standardFontDataUrl: folder('standard_fonts'),
    wasmUrl: folder('wasm'),
    // Without this, pdf.js does not convert colours by their profiles.
    useWorkerFetch: true,
    // pdf.js then asks the canvas for a missing font by its name, and the canvas has only the fonts of the service.
    useSystemFonts: true,
    disableFontFace: true,
    enableXfa: false,
    stopAtErrors: false,
    verbosity: WARNINGS,
  };
}

/** Starts the half of pdf.js that parses, in this thread. */
async function startWorker(errors: HiddenErrors): Promise<Worker> {
  const { PDFWorker }: PdfJs = await import(new URL('legacy/build/pdf.mjs', pdfjs).href);
  const worker = new PDFWorker({ verbosity: WARNINGS });
  await worker.promise;
  errors.watch(worker.port);
  return worker;
}

async function openingError(cause: unknown, file: string, password: string | null): Promise<unknown> {
  if (isFileSystemError(cause)) return cause;
  if (isOutOfMemory(cause)) return outOfMemory(cause);
  const text = String(cause);
  if (text.startsWith('PasswordException')) {
    return password
      ? new AppError('wrong_password', 'the password does not open the PDF', { cause })
      : new AppError('encrypted_pdf', 'the PDF is encrypted and needs a password', { cause });
  }
  if (/unknown encryption method|unsupported encryption algorithm/.test(text)) {
    const kind = (await readFile(file)).includes('/Adobe.PubSec')
      ? 'certificate encryption'
      : 'the encryption of the PDF';
    return new AppError('unsupported_feature', `${kind} is not supported`, { cause });
  }
  return new AppError('corrupt_file', 'the PDF cannot be read', { cause });
}

function pageError(page: number, what: string, cause: unknown): unknown {
  if (isFileSystemError(cause)) return cause;
  return isOutOfMemory(cause)
    ? outOfMemory(cause)
    : new AppError('corrupt_file', `page ${page} cannot be ${what}`, { cause });
}
