import type { ConversionContext, PdfEngine } from '../../../conversion/conversion-task.ts';
import { AppError } from '../../../runtime/errors.ts';
import { fitScale } from '../fit.ts';
import { type ChosenPage, choosePage, type DrawResult, reasonAgainst } from './choose.ts';
import { mayOtherEngineSucceed, type PageBox, type PdfDocument } from './engine.ts';

type Opening = Pick<ConversionContext<unknown>, 'input' | 'password' | 'failedSteps' | 'limits' | 'step'>;

const OPEN: Record<PdfEngine, (file: string, password: string | null) => Promise<PdfDocument>> = {
  pdfium: async (file, password) => (await import('./pdfium/document.ts')).openWithPdfium(file, password),
  'pdf-to-img': async (file, password) => (await import('./pdf-to-img/document.ts')).openWithPdfToImg(file, password),
};
const ENGINES: readonly PdfEngine[] = ['pdfium', 'pdf-to-img'];

/**
 * Opens a PDF file with `firstEngine`, or with the other one when that fails. Throws the first engine's AppError when
 * both fail: `encrypted_pdf`, `wrong_password`, `unsupported_feature`, `corrupt_file`, or the error of an earlier run in
 * `failedSteps`.
 */
export async function openPdf(opening: Opening): Promise<FallbackDocument> {
  const document = new FallbackDocument(opening);
  await document.open();
  return document;
}

/** A PDF that one engine draws, with the other as its fallback. Pages count from 1. */
export class FallbackDocument {
  pageCount = 0;
  readonly #opening: Opening;
  /** In the order in which they are tried. The first one decides which page has which number. */
  #engines: readonly PdfEngine[];
  /** The documents that the engines have opened, or are opening. */
  readonly #opened = new Map<PdfEngine, Promise<PdfDocument>>();
  /** Why the preferred engine does not draw first; null when it does. */
  #reasonForOther: string | null = null;

  constructor(opening: Opening) {
    this.#opening = opening;
    const first = opening.limits.firstEngine;
    this.#engines = [first, ...ENGINES.filter((engine) => engine !== first)];
  }

  /**
   * Opens the file with the first engine that can read its own last page: engines number pages differently where the
   * page tree is broken.
   */
  async open(): Promise<void> {
    const canReadLastPage = await this.#tryEngines(null, async (document) => {
      await document.pageBox(document.pageCount);
      return document.pageCount;
    }).catch(() => null);
    // Without such an engine, any that opens the file is used; this throws the first error when none does.
    const opened = canReadLastPage ?? (await this.#tryEngines(null, async ({ pageCount }) => pageCount));
    const [preferred] = this.#engines;
    this.pageCount = opened.result;
    if (opened.engine === preferred) return;
    this.#reasonForOther = `${preferred}: ${opened.failures[0]}`;
    this.#engines = [opened.engine, ...this.#engines.filter((engine) => engine !== opened.engine)];
  }

  /** The size of a page in points. Throws AppError `corrupt_file` for a page that cannot be read. */
  async pageBox(page: number): Promise<PageBox> {
    const { result } = await this.#tryEngines(page, (document) => document.pageBox(page));
    return result;
  }

  /** Draws a page at `dpi`, or at less if it would not fit. Throws the first engine's AppError when both fail. */
  async draw(page: number, dpi: number): Promise<ChosenPage> {
    const [first, second] = this.#engines;
    const firstResult = await this.#drawWith(first, page, dpi);
    const reason = reasonAgainst(firstResult);
    if (reason === null && firstResult.drawing) return { ...firstResult.drawing, note: this.#reasonForOther };
    const secondResult = await this.#drawWith(second, page, dpi, firstResult.drawing !== null);
    return choosePage(page, { ...firstResult, engine: first, reason }, secondResult);
  }

  async close(): Promise<void> {
    // A document that could not be opened needs no closing.
    const documents = await Promise.allSettled(this.#opened.values());
    for (const opened of documents) if (opened.status === 'fulfilled') await opened.value.close();
  }

  /** Throws errors that are not about the file. `hasSubstitute`: another engine has drawn at least a part of the page. */
  async #drawWith(
    engine: PdfEngine | undefined,
    page: number,
    dpi: number,
    hasSubstitute = false,
  ): Promise<DrawResult> {
    try {
      if (engine === undefined) throw new AppError('corrupt_file', `page ${page} cannot be drawn`);
      const document = await this.#documentFor(page, engine, hasSubstitute);
      const box = await document.pageBox(page);
      const fit = fitScale(box.width, box.height, dpi);
      return { drawing: { image: await document.render(page, fit.scale), fit, engine }, error: null };
    } catch (error) {
      if (!mayOtherEngineSucceed(error) && !this.#earlierFailure(page, engine)) throw error;
      return { drawing: null, error };
    }
  }

  /** The result of the first engine that succeeds, after the failures of others. Throws the first error when all fail. */
  async #tryEngines<T>(
    page: number | null,
    work: (document: PdfDocument) => Promise<T>,
  ): Promise<{ result: T; engine: PdfEngine; failures: string[] }> {
    const errors: unknown[] = [];
    for (const engine of this.#engines) {
      try {
        const result = await work(await this.#documentFor(page, engine));
        return {
          result,
          engine,
          failures: errors.map((error) => (error instanceof Error ? error.message : 'unknown')),
        };
      } catch (error) {
        errors.push(error);
        if (!mayOtherEngineSucceed(error) && !this.#earlierFailure(page, engine)) break;
      }
    }
    throw errors[0];
  }

  /** The document that an engine opened, after the step was reported. Throws the error of an earlier run of the step. */
  async #documentFor(page: number | null, engine: PdfEngine, hasSubstitute = false): Promise<PdfDocument> {
    const failure = this.#earlierFailure(page, engine);
    if (failure) throw new AppError(failure.error.code, failure.error.message);
    const document = await this.#openWith(engine);
    if (page === null) return document;
    if (page > document.pageCount) throw new AppError('corrupt_file', `page ${page} cannot be read`);
    this.#opening.step({ page, engine, last: !hasSubstitute && !this.#hasSubstitute(page, engine) });
    // Where the page tree is broken, the other engine may number pages differently and miss the last one.
    if (engine !== this.#engines[0]) await document.pageBox(document.pageCount);
    return document;
  }

  #openWith(engine: PdfEngine): Promise<PdfDocument> {
    const known = this.#opened.get(engine);
    if (known !== undefined) return known;
    const { input, password, step } = this.#opening;
    step({ page: null, engine, last: this.#opened.size === 0 && !this.#hasSubstitute(null, engine) });
    // The second engine needs as much memory as an ordinary page, so the garbage of the first is collected before.
    if (this.#opened.size > 0) globalThis.gc?.({ type: 'major' });
    const opening = OPEN[engine](input, password);
    this.#opened.set(engine, opening);
    return opening;
  }

  #earlierFailure(page: number | null, engine: PdfEngine | undefined) {
    return this.#opening.failedSteps.find(
      (step) => step.engine === engine && (step.page === page || step.page === null),
    );
  }

  #hasSubstitute(page: number | null, engine: PdfEngine): boolean {
    const others = this.#engines.slice(this.#engines.indexOf(engine) + 1);
    return others.some((other) => !this.#earlierFailure(page, other));
  }
}
