import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { type Options, type Pdf, pdf } from 'pdf-to-img';
import { AppError, isOutOfMemory } from '../../../../runtime/errors.ts';
import {
  type DrawnPage,
  isOfSystem,
  oneAfterTheOther,
  outOfMemory,
  type PageBox,
  type PdfDocument,
} from '../engine.ts';
import { type CreateCanvas, createCanvases, Measured } from './canvas.ts';
import { withLocalFiles } from './local-files.ts';
import { type FontRegistry, registerFonts } from './substitute-fonts.ts';
import { Stuck, Watch } from './watch.ts';

// pdf.js takes its canvas from Node's own require; only that very copy draws its paths, under a test runner too.
const { createRequire } = process.getBuiltinModule('node:module');
const pdfToImg = createRequire(import.meta.url).resolve('pdf-to-img');
const pdfjs = new URL('.', pathToFileURL(createRequire(pdfToImg).resolve('pdfjs-dist/package.json')));
const { createCanvas, GlobalFonts } = createRequire(pdfjs)('@napi-rs/canvas') as {
  createCanvas: CreateCanvas;
  GlobalFonts: FontRegistry;
};

interface WorkerHalf {
  WorkerMessageHandler: { initializeFromPort(port: object): void };
}
type DocInitParams = NonNullable<Options['docInitParams']>;
type Worker = NonNullable<DocInitParams['worker']>;
interface DrawingHalf {
  PDFWorker: new (options: { port: object; verbosity: number }) => Worker;
}

const WARNINGS = 1;

/** pdf.js keeps the fonts and images of all pages that it drew. It loses them when the document is opened again. */
const MAX_KEPT_BYTES = 64 * 2 ** 20;

/**
 * Opens a PDF file, of which pdf.js keeps all bytes in memory. Throws AppError `encrypted_pdf` when it wants a password and
 * got none, `wrong_password`, `unsupported_feature`, or `corrupt_file` when it cannot be read or has no pages.
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

/** A file as pdf.js opens it, again and again. */
class Document {
  readonly #file: string;
  readonly #canvases = createCanvases(createCanvas);
  readonly #watch = new Watch();
  /** pdf-to-img reads the scale for each page. */
  readonly #options: { scale: number; docInitParams: DocInitParams };
  #opened: { pdf: Pdf; worker: Worker } | undefined;
  /** Resident memory when the file was opened. */
  #residentBefore = 0;

  constructor(file: string, password: string | null) {
    this.#file = file;
    this.#options = { scale: 1, docInitParams: docInitParams(password, this.#canvases) };
  }

  /** Gives the number of pages as the file states it, which may be negative. */
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
      const { width = 0, height = 0 } = this.#canvases.page ?? {};
      return { data, width, height, channels: 4, complaints };
    } catch (cause) {
      throw pageError(page, 'drawn', cause);
    } finally {
      this.#canvases.release();
    }
  }

  async close(): Promise<void> {
    await this.#forget();
    await this.#watch.stop();
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
    const worker = await startWorker(this.#watch.createPort());
    const options = this.#options;
    options.docInitParams = { ...options.docInitParams, worker };
    const { result } = await this.#run(() => pdf(this.#file, options));
    this.#opened = { pdf: result, worker };
    this.#residentBefore = process.memoryUsage.rss();
    return result;
  }

  async #run<T>(work: () => Promise<T>) {
    try {
      return await withLocalFiles(pdfjs, () => this.#watch.run(work));
    } catch (error) {
      // Closing would wait for the page.
      if (error instanceof Stuck) this.#opened = undefined;
      throw error;
    }
  }
}

/** pdf.js without network (every URL is a folder of its package), scripts and XFA forms. */
function docInitParams(password: string | null, canvases: object): DocInitParams {
  const folder = (name: string) => new URL(`${name}/`, pdfjs).href;
  return {
    ...(password !== null && { password }),
    // Called with `new`, which gives back the object that a function returns.
    CanvasFactory: function factory() {
      return canvases;
    },
    cMapUrl: folder('cmaps'),
    iccUrl: folder('iccs'),
    standardFontDataUrl: folder('standard_fonts'),
    wasmUrl: folder('wasm'),
    // Only then does pdf.js convert colours by their profiles.
    useWorkerFetch: true,
    // A missing font is asked of the canvas by its name, which has ours alone.
    useSystemFonts: true,
    disableFontFace: true,
    enableXfa: false,
    stopAtErrors: false,
    verbosity: WARNINGS,
  };
}

/** The half of pdf.js that parses, in this thread, behind a port of ours. */
async function startWorker(port: object): Promise<Worker> {
  const load = (name: string) => import(new URL(`legacy/build/${name}`, pdfjs).href);
  const { WorkerMessageHandler }: WorkerHalf = await load('pdf.worker.mjs');
  const { PDFWorker }: DrawingHalf = await load('pdf.mjs');
  WorkerMessageHandler.initializeFromPort(port);
  return new PDFWorker({ port, verbosity: WARNINGS });
}

async function openingError(cause: unknown, file: string, password: string | null): Promise<unknown> {
  if (isOfSystem(cause)) return cause;
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
  if (isOfSystem(cause)) return cause;
  return isOutOfMemory(cause)
    ? outOfMemory(cause)
    : new AppError('corrupt_file', `page ${page} cannot be ${what}`, { cause });
}
