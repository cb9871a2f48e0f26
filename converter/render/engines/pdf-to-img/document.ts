import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Options, pdf } from 'pdf-to-img';
import { AppError, isOutOfMemory } from '../../../../errors.ts';
import {
  type DrawnPage,
  isOfSystem,
  oneAfterTheOther,
  outOfMemory,
  type PageBox,
  type PdfDocument,
} from '../engine.ts';
import { createCanvases, Measured } from './canvas.ts';
import { createPort } from './port.ts';
import type { CreateCanvas } from './sheet.ts';

// pdf.js takes its canvas from Node's own require; only that very copy draws its paths, under a test runner too.
const { createRequire } = process.getBuiltinModule('node:module');
const pdfToImg = createRequire(import.meta.url).resolve('pdf-to-img');
const pdfjs = path.dirname(createRequire(pdfToImg).resolve('pdfjs-dist/package.json'));
const { createCanvas } = createRequire(`${pdfjs}/`)('@napi-rs/canvas') as { createCanvas: CreateCanvas };

interface PdfJs {
  PDFWorker: new (options: {
    port: object;
    verbosity: number;
  }) => NonNullable<NonNullable<Options['docInitParams']>['worker']>;
  WorkerMessageHandler: { initializeFromPort(port: object): void };
}

// Types of it come with those of browsers alone.
const { Memory: WasmMemory } = (
  globalThis as unknown as { WebAssembly: { Memory: { prototype: { grow(this: object, pages: number): number } } } }
).WebAssembly;

const WARNINGS = 1;

/** Of each page that was drawn pdf.js keeps about half a megabyte, its images apart. */
const MAX_PAGES_KEPT = 100;

/**
 * Opens a PDF file, of which pdf.js keeps all bytes in memory. Throws AppError `encrypted_pdf` when it wants a password and got
 * none, `wrong_password`, or `corrupt_file` when it cannot be read or has no pages.
 */
export async function openWithPdfToImg(file: string, password: string | null): Promise<PdfDocument> {
  const canvases = createCanvases(createCanvas);
  const port = createPort();
  const options = {
    scale: 1,
    docInitParams: { ...docInitParams(password, canvases), worker: await startWorker(port) },
  };
  const drawn = new Set<number>();
  const open = () => withoutSkipping(() => pdf(file, options));
  let document = await open().catch((cause) => {
    throw openingError(cause, password);
  });
  const pageCount = document.length;
  if (pageCount === 0) {
    await document.destroy();
    throw new AppError('corrupt_file', 'the PDF has no pages');
  }

  /** Opens the document again when pdf.js keeps too much of it, or lacks the images of a page that was drawn before. */
  async function renewBefore(page: number): Promise<void> {
    if (drawn.size >= MAX_PAGES_KEPT || drawn.has(page)) {
      drawn.clear();
      await document.destroy();
      document = await open();
    }
    drawn.add(page);
  }

  async function pageBox(page: number): Promise<PageBox> {
    canvases.next = 'measure';
    options.scale = 1;
    const outcome = await withoutSkipping(() => document.getPage(page)).catch((error) => error);
    if (outcome instanceof Measured) return { width: outcome.width, height: outcome.height };
    throw pageError(page, 'read', outcome);
  }

  async function render(page: number, scale: number): Promise<DrawnPage> {
    try {
      await renewBefore(page);
      canvases.next = 'draw';
      options.scale = scale;
      const data = await withoutSkipping(() => document.getPage(page));
      const { width = 0, height = 0 } = canvases.page ?? {};
      return { data, width, height, channels: 4, complaints: [] };
    } catch (cause) {
      throw pageError(page, 'drawn', cause);
    } finally {
      if (canvases.page) canvases.page.width = canvases.page.height = 0;
      canvases.page = null;
      port.dropImages();
    }
  }

  const inTurn = oneAfterTheOther();
  return {
    pageCount,
    pageBox: (page) => inTurn(() => pageBox(page)),
    render: (page, scale) => inTurn(() => render(page, scale)),
    close: () => inTurn(() => document.destroy()),
  };
}

/** pdf.js without network (every URL is a folder of its package), scripts, XFA forms or the machine's own fonts. */
function docInitParams(password: string | null, canvases: object): NonNullable<Options['docInitParams']> {
  return {
    ...(password === null ? {} : { password }),
    // Called with `new`, which gives back the object that a function returns.
    CanvasFactory: function factory() {
      return canvases;
    },
    wasmUrl: `${pdfjs}/wasm/`,
    iccUrl: `${pdfjs}/iccs/`,
    useSystemFonts: false,
    useWorkerFetch: false,
    disableFontFace: true,
    enableXfa: false,
    stopAtErrors: false,
    verbosity: WARNINGS,
  };
}

/**
 * pdf.js leaves out images that it cannot decode, and only warns of it on the console, its WebAssembly decoders without
 * a reason. A page that lacks one for want of memory must not pass for the whole page; what is broken in the file is
 * left out as everywhere.
 */
async function withoutSkipping<T>(work: () => Promise<T>): Promise<T> {
  const { warn } = console;
  const { grow } = WasmMemory.prototype;
  let refused: unknown;
  console.warn = (message) => {
    const warning = new Error(String(message));
    if (isOutOfMemory(warning)) refused = warning;
  };
  WasmMemory.prototype.grow = function growOrTell(pages) {
    try {
      return grow.call(this, pages);
    } catch (cause) {
      refused = new Error('out of memory', { cause });
      throw cause;
    }
  };
  try {
    const result = await work();
    if (refused !== undefined) throw refused;
    return result;
  } finally {
    console.warn = warn;
    WasmMemory.prototype.grow = grow;
  }
}

/** Loads pdf.js and its canvas, which is slow, and maps a gigabyte that is never used. */
export async function loadPdfJs(): Promise<PdfJs> {
  const build = pathToFileURL(`${pdfjs}/legacy/build/`);
  createCanvas(1, 1);
  return {
    ...(await import(new URL('pdf.worker.mjs', build).href)),
    ...(await import(new URL('pdf.mjs', build).href)),
  };
}

/** The half of pdf.js that parses, in this thread. */
async function startWorker(port: ReturnType<typeof createPort>) {
  const { WorkerMessageHandler, PDFWorker } = await loadPdfJs();
  WorkerMessageHandler.initializeFromPort(port);
  return new PDFWorker({ port, verbosity: WARNINGS });
}

function openingError(cause: unknown, password: string | null): unknown {
  if (isOfSystem(cause)) return cause;
  if (isOutOfMemory(cause)) return outOfMemory(cause);
  if ((cause as Error)?.name !== 'PasswordException')
    return new AppError('corrupt_file', 'the PDF cannot be read', { cause });
  return password
    ? new AppError('wrong_password', 'the password does not open the PDF', { cause })
    : new AppError('encrypted_pdf', 'the PDF is encrypted and needs a password', { cause });
}

function pageError(page: number, what: string, cause: unknown): unknown {
  if (isOfSystem(cause)) return cause;
  return isOutOfMemory(cause)
    ? outOfMemory(cause)
    : new AppError('corrupt_file', `page ${page} cannot be ${what}`, { cause });
}
