import type { ConversionContext, PdfEngine } from '../../../conversion/conversion-task.ts';
import { AppError } from '../../../runtime/errors.ts';
import { fitScale } from '../fit.ts';
import { type DrawnPage, NOTHING_DRAWN, type PageBox, type PdfDocument } from './engine.ts';

/** A PDF that two engines can draw, the second where the first does not do it well enough. Pages count from 1. */
export interface TwoEngines {
  pageCount: number;
  /** The size of a page in points. Throws AppError `corrupt_file` for a page that cannot be read. */
  pageBox(page: number): Promise<PageBox>;
  /** Draws a page at `dpi`, or at less if it would not fit. Throws the first engine's AppError when both fail. */
  draw(page: number, dpi: number): Promise<ChosenPage>;
  close(): Promise<void>;
}

interface ChosenPage {
  image: DrawnPage;
  fit: ReturnType<typeof fitScale>;
  engine: PdfEngine;
  /** Why another engine than the first drew the page, or what is missing on it; else null. */
  note: string | null;
}

type Opening = Pick<ConversionContext<unknown>, 'input' | 'password' | 'avoid' | 'limits' | 'step'>;
type Drawn = Omit<ChosenPage, 'note'>;

const OPEN: Record<PdfEngine, (file: string, password: string | null) => Promise<PdfDocument>> = {
  pdfium: async (file, password) => (await import('./pdfium/document.ts')).openWithPdfium(file, password),
  'pdf-to-img': async (file, password) => (await import('./pdf-to-img/document.ts')).openWithPdfToImg(file, password),
};
const ENGINES: readonly PdfEngine[] = ['pdfium', 'pdf-to-img'];

/**
 * Opens a PDF file with `firstEngine`, or else with the other one. Throws the first engine's AppError when neither can:
 * `encrypted_pdf`, `wrong_password`, `unsupported_feature`, `corrupt_file`, or the end of an earlier run in `avoid`.
 */
export async function openPdf(opening: Opening): Promise<TwoEngines> {
  const document = new DocumentOfTwo(opening);
  await document.open();
  return document;
}

class DocumentOfTwo implements TwoEngines {
  pageCount = 0;
  readonly #opening: Opening;
  /** In the order in which they are asked; the numbers of the pages are those of the first. */
  #engines: readonly PdfEngine[];
  readonly #opened = new Map<PdfEngine, Promise<PdfDocument>>();
  #main: PdfEngine | undefined;
  /** Why the engine that was to go first does not. */
  #reasonForOther: string | null = null;

  constructor(opening: Opening) {
    this.#opening = opening;
    const first = opening.limits.firstEngine;
    this.#engines = [first, ...ENGINES.filter((engine) => engine !== first)];
  }

  /**
   * Where the tree of pages is broken, engines number the pages differently. The first one that can read its own last page
   * goes first.
   */
  async open(): Promise<void> {
    const [preferred] = this.#engines;
    const reasons: string[] = [];
    const useAsMain = (document: PdfDocument, engine: PdfEngine) => {
      this.#main = engine;
      this.pageCount = document.pageCount;
    };
    try {
      await this.#ask(
        null,
        async (document, engine) => {
          await document.pageBox(document.pageCount);
          useAsMain(document, engine);
        },
        reasons,
      );
    } catch {
      // No engine reads its last page, or none opens the file; then this throws the first error.
      await this.#ask(null, async (document, engine) => useAsMain(document, engine));
    }
    if (this.#main === preferred || this.#main === undefined) return;
    this.#reasonForOther = `${preferred}: ${reasons[0]}`;
    this.#engines = [this.#main, ...this.#engines.filter((engine) => engine !== this.#main)];
  }

  pageBox(page: number): Promise<PageBox> {
    return this.#ask(page, (document) => document.pageBox(page));
  }

  async draw(page: number, dpi: number): Promise<ChosenPage> {
    const [first, second] = this.#engines;
    const firstTry = await this.#attempt(page, dpi, first);
    const reason = reasonAgainst(firstTry);
    if (reason === null && firstTry.drawn) return { ...firstTry.drawn, note: this.#reasonForOther };
    const secondTry = await this.#attempt(page, dpi, second, firstTry.drawn !== null);
    return choose(page, { ...firstTry, name: first, reason }, secondTry);
  }

  async close(): Promise<void> {
    for (const opening of this.#opened.values()) {
      await opening.then(
        (document) => document.close(),
        () => undefined,
      );
    }
  }

  /**
   * The page by one engine, or the error with which it failed; errors that are not about the file are thrown.
   * `hasSubstitute`: another engine has drawn the page already, though not all of it.
   */
  async #attempt(page: number, dpi: number, engine: PdfEngine | undefined, hasSubstitute = false): Promise<Attempt> {
    try {
      if (engine === undefined) throw new AppError('corrupt_file', `page ${page} cannot be drawn`);
      const document = await this.#documentFor(page, engine, hasSubstitute);
      const box = await document.pageBox(page);
      const fit = fitScale(box.width, box.height, dpi);
      return { drawn: { image: await document.render(page, fit.scale), fit, engine }, error: null };
    } catch (error) {
      if (!isAboutFile(error) && !this.#fatal(page, engine)) throw error;
      return { drawn: null, error };
    }
  }

  /** The first engine's result for which `work` succeeds; the first error when none does. `reasons` collects the errors. */
  async #ask<T>(
    page: number | null,
    work: (document: PdfDocument, engine: PdfEngine) => Promise<T>,
    reasons: string[] = [],
  ): Promise<T> {
    let first: unknown;
    for (const engine of this.#engines) {
      try {
        return await work(await this.#documentFor(page, engine), engine);
      } catch (error) {
        first ??= error;
        reasons.push(error instanceof Error ? error.message : 'unknown');
        if (!isAboutFile(error) && !this.#fatal(page, engine)) throw first;
      }
    }
    throw first;
  }

  /** The document as an engine opened it, after the step was announced. Throws what an earlier run ended with. */
  async #documentFor(page: number | null, engine: PdfEngine, hasSubstitute = false): Promise<PdfDocument> {
    const fatal = this.#fatal(page, engine);
    if (fatal) throw new AppError(fatal.error.code, fatal.error.message);
    const document = await this.#openWith(engine);
    if (page === null) return document;
    if (page > document.pageCount) throw new AppError('corrupt_file', `page ${page} cannot be read`);
    this.#opening.step({ page, engine, last: !hasSubstitute && !this.#hasSubstitute(page, engine) });
    // Where the tree of pages is broken, another engine counts otherwise and runs out of pages before the last.
    if (engine !== this.#main) await document.pageBox(document.pageCount);
    return document;
  }

  #openWith(engine: PdfEngine): Promise<PdfDocument> {
    const known = this.#opened.get(engine);
    if (known !== undefined) return known;
    const { input, password, step } = this.#opening;
    step({ page: null, engine, last: this.#opened.size === 0 && !this.#hasSubstitute(null, engine) });
    // The second engine takes as much as an ordinary page: what the first one left has to go.
    if (this.#opened.size > 0) globalThis.gc?.({ type: 'major' });
    const opening = OPEN[engine](input, password);
    this.#opened.set(engine, opening);
    return opening;
  }

  #fatal(page: number | null, engine: PdfEngine | undefined) {
    return this.#opening.avoid.find((step) => step.engine === engine && (step.page === page || step.page === null));
  }

  #hasSubstitute(page: number | null, engine: PdfEngine): boolean {
    const others = this.#engines.slice(this.#engines.indexOf(engine) + 1);
    return others.some((other) => !this.#fatal(page, other));
  }
}

type Attempt = { drawn: Drawn; error: null } | { drawn: null; error: unknown };

/** Why a page by the first engine needs a second opinion; null for a page that is complete. */
function reasonAgainst({ drawn, error }: Attempt): string | null {
  if (drawn === null) return error instanceof Error ? error.message : 'the page cannot be drawn';
  return drawn.image.complaints.length === 0 ? null : drawn.image.complaints.join('; ');
}

/**
 * Chooses between two pages of which the first one is not complete. The second counts when it is complete and shows
 * something. A page that both engines leave empty is empty, unless the first complains of damage. Throws when neither
 * engine shows anything of a page that should show something.
 */
function choose(
  page: number,
  first: Attempt & { name?: PdfEngine | undefined; reason: string | null },
  second: Attempt,
): ChosenPage {
  const { name, reason } = first;
  const secondIsComplete = second.drawn?.image.complaints.length === 0;
  if (second.drawn && !isBlank(second.drawn.image) && (secondIsComplete || showsLess(first, second.drawn))) {
    const missing = secondIsComplete
      ? ''
      : `; also by ${second.drawn.engine}: ${second.drawn.image.complaints.join('; ')}`;
    return { ...second.drawn, note: `${name}: ${reason}${missing}` };
  }
  if (first.drawn === null) throw first.error;
  if (!isBlank(first.drawn.image)) return { ...first.drawn, note: `${name}: ${reason}` };
  const mayBeEmpty = first.drawn.image.complaints.every((complaint) => complaint === NOTHING_DRAWN);
  if (secondIsComplete && mayBeEmpty) return { ...first.drawn, note: null };
  if (second.error instanceof AppError && !isAboutFile(second.error)) throw second.error;
  throw new AppError('corrupt_file', `page ${page} cannot be drawn: ${reason}`);
}

function showsLess(first: Attempt, second: Drawn): boolean {
  return first.drawn === null || ink(first.drawn.image) < ink(second.image);
}

function isBlank(image: DrawnPage): boolean {
  return ink(image) === 0;
}

/** How many pixels are not white. */
function ink({ data, width, height }: DrawnPage): number {
  let count = 0;
  const pixels = new Int32Array(data.buffer, data.byteOffset, width * height);
  for (const pixel of pixels) if (pixel !== -1) count++;
  return count;
}

/** Another engine may see a file differently. A password is as wrong for both, and memory or a disk as short. */
function isAboutFile(error: unknown): boolean {
  return error instanceof AppError && (error.code === 'corrupt_file' || error.code === 'unsupported_feature');
}
