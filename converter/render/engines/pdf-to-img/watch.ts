import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { isOutOfMemory } from '../../../../runtime/errors.ts';
import { createPort } from './port.ts';

const PART = 'a part of the page cannot be read';

/** The parts that pdf.js leaves out of a page, by the warning that it prints. */
const OMISSIONS: [RegExp, string][] = [
  [/Unable to decode (inline )?image/, 'an image cannot be decoded'],
  [/(getOperatorList|getContentStream|parseShading|handleTilingType) - ignoring/, PART],
];

/** Its WebAssembly decoders abort when memory is refused to them; broken data makes them fail in other words. */
const ABORTED = /Unable to decode .*(Aborted\(|unreachable)|OpenJPEG: .*(memory|allocat)/i;

/** Thrown in place of work that will never end: pdf.js failed where nobody waits for the result. */
export class Stuck extends Error {}

/**
 * Collects the errors that pdf.js hides: it prints a warning, rejects a promise that nobody waits for (which would end the
 * process), or stops reading a page.
 */
export class Watch {
  #complaints = new Set<string>();
  #refusal: Error | undefined;
  #stuck = Promise.withResolvers<never>();

  constructor() {
    subscribe('console.warn', this.#onWarning);
    process.on('unhandledRejection', this.#onRejection);
  }

  /** A port for a worker of pdf.js. */
  createPort() {
    return createPort({ onOmission: this.#onOmission, onFailure: this.#onFailure });
  }

  /**
   * Does one piece of work, never two at a time, and gives what is missing from its result. Throws `Stuck`, or an error that
   * says so when memory was refused to it.
   */
  async run<T>(work: () => Promise<T>): Promise<{ result: T; complaints: string[] }> {
    this.#complaints = new Set();
    this.#refusal = undefined;
    this.#stuck = Promise.withResolvers();
    this.#stuck.promise.catch(() => undefined);
    const outcome = Promise.race([work(), this.#stuck.promise]);
    await outcome.catch(() => undefined);
    await rejectionsReported();
    if (this.#refusal !== undefined) throw this.#refusal;
    return { result: await outcome, complaints: [...this.#complaints] };
  }

  /** Ends the watch that began with the constructor. */
  async stop(): Promise<void> {
    await rejectionsReported();
    unsubscribe('console.warn', this.#onWarning);
    process.off('unhandledRejection', this.#onRejection);
  }

  readonly #onWarning = (message: unknown): void => {
    const text = Array.isArray(message) ? String(message[0]) : '';
    this.#noteRefusal(text);
    for (const [pattern, complaint] of OMISSIONS) if (pattern.test(text)) this.#complaints.add(complaint);
  };

  readonly #onOmission = (cause: unknown): void => {
    this.#noteRefusal(String(cause));
    this.#complaints.add(PART);
  };

  readonly #onFailure = (cause: unknown): void => {
    this.#noteRefusal(String(cause));
    this.#stuck.reject(new Stuck('pdf.js failed', { cause }));
  };

  /** The half that parses goes on after such an error. The half that draws does not. */
  readonly #onRejection = (cause: unknown): void => {
    const stack = cause instanceof Error ? `${cause.stack}` : '';
    if (stack.includes('/pdf.mjs') && !stack.includes('/pdf.worker.mjs')) this.#onFailure(cause);
    else this.#onOmission(cause);
  };

  /** Once memory was refused, the page may lack more than pdf.js says. */
  #noteRefusal(text: string): void {
    if (isOutOfMemory({ message: text }) || ABORTED.test(text)) this.#refusal ??= new Error(`out of memory: ${text}`);
  }
}

/** Node reports an unhandled rejection when all promises that could run have run. */
function rejectionsReported(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
