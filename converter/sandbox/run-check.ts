import { countPages, pagesIn, parsePages, selectPages } from '../../conversion/page-selection.ts';
import { type ConvertPayload, convert, convertPayload } from '../../conversion/tasks/convert.ts';
import { convertRange, convertRangePayload } from '../../conversion/tasks/convert-range.ts';
import type { PageRange } from '../../db/schema.ts';
import { AppError } from '../../runtime/errors.ts';
import { MAX_LINES } from '../report-limits.ts';
import type { TaskRequest } from '../run-task.ts';
import { type RunMessage, Violation } from './protocol.ts';

/** A task without a fault sends a few messages for each page, and reports progress at most ten times per second. */
const MESSAGES_PER_PAGE = 10;
const MIN_MESSAGES = 10_000;
const MESSAGES_PER_SECOND = 100;
/** Enough for all log lines of a task. */
const MAX_BYTES = 128 * 2 ** 20;
const BYTES_PER_SECOND = 2 ** 20;
/** The longest line has a result, or the parts of a split, at most one per page. */
const MIN_LINE_BYTES = 2 ** 20;
const LINE_BYTES_PER_PAGE = 64;

type Sent<Kind extends RunMessage['kind']> = Extract<RunMessage, { kind: Kind }>;
type CompletedPage = Extract<Sent<'page'>['report'], { status: 'completed' }>;

/**
 * Checks the messages of one run against its request: only selected pages, each once, and an outcome that covers all of
 * them. Every method throws a `Violation` for an invalid message.
 */
export class RunCheck {
  readonly maxLineBytes: number;
  readonly #request: TaskRequest;
  /** Null for tasks other than conversions. */
  readonly #conversion: Pick<ConvertPayload, 'media_type' | 'dpi'> | null;
  readonly #messages: TokenBucket;
  readonly #bytes = new TokenBucket(MAX_BYTES, BYTES_PER_SECOND);
  readonly #settled: Set<number>;
  /** Undefined until the inspection. */
  #selected: PageRange[] | undefined;
  #lines = 0;

  constructor(request: TaskRequest) {
    const { type, payload, limits, settledPages } = request;
    this.#request = request;
    this.#settled = new Set(settledPages);
    this.maxLineBytes = Math.max(MIN_LINE_BYTES, LINE_BYTES_PER_PAGE * limits.maxPages);
    this.#messages = new TokenBucket(MIN_MESSAGES + MESSAGES_PER_PAGE * limits.maxPages, MESSAGES_PER_SECOND);
    // A task with an invalid payload only fails.
    const range = type === convertRange.type ? convertRangePayload.safeParse(payload).data : undefined;
    this.#selected = range?.pages;
    this.#conversion = range ?? (type === convert.type ? convertPayload.safeParse(payload).data : null) ?? null;
  }

  /** Checks the rate of messages, before a line is parsed. */
  spend(bytes: number): void {
    if (!this.#messages.take(1)) throw new Violation('too many messages');
    if (!this.#bytes.take(bytes)) throw new Violation('too many bytes');
  }

  check(message: RunMessage): void {
    switch (message.kind) {
      case 'progress':
        break;
      case 'log':
        if (++this.#lines > MAX_LINES) throw new Violation('too many log lines');
        break;
      case 'step':
        this.#step(message);
        break;
      case 'inspected':
        this.#inspected(message);
        break;
      case 'page':
        this.#page(message);
        break;
      case 'ended':
        this.#ended(message);
        break;
      default:
        message satisfies never;
    }
  }

  /** A step must be selected, because the page of a step that ends the sandbox becomes a separate job. */
  #step({ step: { page, engine } }: Sent<'step'>): void {
    this.#mustConvert('a step');
    if (page !== null && !this.#isSelected(page))
      throw new Violation(`a step for page ${page}, which was not asked for`);
    if ((engine === 'sharp') !== this.#isImage()) throw new Violation(`a step of ${engine}`);
  }

  /** The selection is computed here, so that a sandbox cannot choose pages. */
  #inspected({ found }: Sent<'inspected'>): void {
    const { page_selection } = this.#request.payload;
    this.#mustConvert('an inspection');
    if (this.#request.type !== convert.type || this.#selected !== undefined) throw new Violation('a second inspection');
    if (this.#isImage() && found.pageCount !== 1) throw new Violation(`an image has ${found.pageCount} pages`);
    const selected = select(typeof page_selection === 'string' ? page_selection : null, found.pageCount);
    if (JSON.stringify(selected) !== JSON.stringify(found.selected)) throw new Violation('another selection of pages');
    if (countPages(selected) > this.#request.limits.maxPages) throw new Violation('too many pages selected');
    this.#selected = selected;
  }

  #page({ report }: Sent<'page'>): void {
    const { page } = report;
    if (!this.#isSelected(page)) throw new Violation(`page ${page} was not asked for`);
    if (this.#settled.has(page)) throw new Violation(`page ${page} came twice`);
    this.#settled.add(page);
    if (report.status === 'completed') this.#completedPage(report);
  }

  #completedPage({ page, engine, dpi }: CompletedPage): void {
    if (this.#conversion === null) throw new Violation('a page of a task that converts nothing');
    const { dpi: asked } = this.#conversion;
    const isImage = this.#isImage();
    if ((engine === 'sharp') !== isImage || (dpi === null) !== isImage)
      throw new Violation(`page ${page}: by ${engine}`);
    // The dpi is rounded to two decimals.
    if (dpi !== null && dpi > asked + 0.01) throw new Violation(`page ${page}: more dpi than asked for`);
  }

  #ended({ outcome }: Sent<'ended'>): void {
    const isConversion = this.#conversion !== null;
    if (outcome.kind === 'split') this.#split(outcome.parts);
    if (outcome.kind === 'snoozed' && isConversion) throw new Violation('a conversion snoozes');
    if (outcome.kind === 'completed' && isConversion && this.#unsettled().length > 0) {
      throw new Violation(`completed without page ${this.#unsettled()[0]}`);
    }
  }

  /** The parts must have all unsettled pages, each once. */
  #split(parts: { pages: PageRange[] }[]): void {
    if (this.#request.type !== convert.type) throw new Violation('a split of another task than a conversion');
    const left = new Set(this.#unsettled());
    for (const { pages } of parts) {
      for (const [from, to] of pages) {
        // Not `pagesIn`: a range may have two billion pages.
        for (let page = from; page <= to; page++) {
          if (!left.delete(page)) throw new Violation(`page ${page} is in no part, or in two`);
        }
      }
    }
    if (left.size > 0) throw new Violation('a split that leaves out pages');
  }

  #unsettled(): number[] {
    if (this.#selected === undefined) throw new Violation('an end before the inspection');
    return pagesIn(this.#selected).filter((page) => !this.#settled.has(page));
  }

  #isSelected(page: number): boolean {
    return this.#selected?.some(([from, to]) => from <= page && page <= to) ?? false;
  }

  #isImage(): boolean {
    return this.#conversion?.media_type !== 'application/pdf';
  }

  #mustConvert(what: string): void {
    if (this.#conversion === null) throw new Violation(`${what} of a task that converts nothing`);
  }
}

function select(selection: string | null, pageCount: number): PageRange[] {
  try {
    return selectPages(selection === null ? null : parsePages(selection), pageCount);
  } catch (error) {
    if (error instanceof AppError) throw new Violation('a selection beyond the last page');
    throw error;
  }
}

class TokenBucket {
  readonly #max: number;
  readonly #perSecond: number;
  #left: number;
  #at = performance.now();

  constructor(max: number, perSecond: number) {
    this.#max = max;
    this.#perSecond = perSecond;
    this.#left = max;
  }

  take(amount: number): boolean {
    const now = performance.now();
    this.#left = Math.min(this.#max, this.#left + ((now - this.#at) / 1_000) * this.#perSecond) - amount;
    this.#at = now;
    return this.#left >= 0;
  }
}
