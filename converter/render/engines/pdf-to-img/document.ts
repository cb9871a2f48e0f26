import { readFile } from 'node:fs/promises';
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
import { type CreateCanvas, createCanvases, Measured } from './canvas.ts';
import { withLocalFiles } from './local-files.ts';
import { type FontRegistry, registerFonts } from './substitute-fonts.ts';
import { watch } from './watch.ts';

// pdf.js takes its canvas from Node's own require; only that very copy draws its paths, under a test runner too.
const { createRequire } = process.getBuiltinModule('node:module');
const pdfToImg = createRequire(import.meta.url).resolve('pdf-to-img');
const pdfjs = new URL('.', pathToFileURL(createRequire(pdfToImg).resolve('pdfjs-dist/package.json')));
const { createCanvas, GlobalFonts } = createRequire(pdfjs)('@napi-rs/canvas') as {
  createCanvas: CreateCanvas;
  GlobalFonts: FontRegistry;
};

const WARNINGS = 1;

/** pdf.js keeps the fonts and images of each page that it drew; its document is opened again before they are too many. */
const MAX_PAGES_KEPT = 10;

/**
 * Opens a PDF file, of which pdf.js keeps all bytes in memory. Throws AppError `encrypted_pdf` when it wants a password and
 * got none, `wrong_password`, `unsupported_feature`, or `corrupt_file` when it cannot be read or has no pages.
 */
export async function openWithPdfToImg(file: string, password: string | null): Promise<PdfDocument> {
  registerFonts(GlobalFonts);
  const canvases = createCanvases(createCanvas);
  const options = { scale: 1, docInitParams: docInitParams(password, canvases) };
  const run = <T>(work: () => Promise<T>) => withLocalFiles(pdfjs, () => watch(work));
  const open = () => run(() => pdf(file, options));
  const opened = await open().catch(async (cause) => {
    throw await openingError(cause, file, password);
  });
  let document = opened.result;
  let drawn = 0;
  const pageCount = document.length;
  if (!Number.isInteger(pageCount) || pageCount < 1) {
    await document.destroy();
    throw new AppError('corrupt_file', 'the PDF has no pages');
  }

  async function pageBox(page: number): Promise<PageBox> {
    canvases.next = 'measure';
    options.scale = 1;
    const outcome = await run(() => document.getPage(page)).catch((error) => error);
    if (outcome instanceof Measured) return { width: outcome.width, height: outcome.height };
    throw pageError(page, 'read', outcome);
  }

  async function render(page: number, scale: number): Promise<DrawnPage> {
    try {
      if (drawn++ % MAX_PAGES_KEPT === MAX_PAGES_KEPT - 1) {
        await document.destroy();
        document = (await open()).result;
      }
      canvases.next = 'draw';
      options.scale = scale;
      const { result: data, complaints } = await run(() => document.getPage(page));
      const { width = 0, height = 0 } = canvases.page ?? {};
      return { data, width, height, channels: 4, complaints };
    } catch (cause) {
      throw pageError(page, 'drawn', cause);
    } finally {
      canvases.release();
    }
  }

  const inTurn = oneAfterTheOther();
  return {
    pageCount,
    pageBox: (page) => inTurn(() => pageBox(page)),
    render: (page, scale) => inTurn(() => render(page, scale)),
    close: () => inTurn(async () => void (await run(() => document.destroy()))),
  };
}

/** pdf.js without network (every URL is a folder of its package), scripts, XFA forms or embedded fonts as system fonts. */
function docInitParams(password: string | null, canvases: object): NonNullable<Options['docInitParams']> {
  const folder = (name: string) => new URL(`${name}/`, pdfjs).href;
  return {
    ...(password === null ? {} : { password }),
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

async function openingError(cause: unknown, file: string, password: string | null): Promise<unknown> {
  if (isOfSystem(cause)) return cause;
  if (isOutOfMemory(cause)) return outOfMemory(cause);
  const { name, message } = cause instanceof Error ? cause : new Error();
  if (name === 'PasswordException') {
    return password
      ? new AppError('wrong_password', 'the password does not open the PDF', { cause })
      : new AppError('encrypted_pdf', 'the PDF is encrypted and needs a password', { cause });
  }
  if (/unknown encryption method|unsupported encryption algorithm/.test(message)) {
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
