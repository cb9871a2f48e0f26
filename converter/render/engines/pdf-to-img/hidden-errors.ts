import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { isOutOfMemory } from '../../../../runtime/errors.ts';

const PART = 'a part of the page cannot be read';

/** The parts that pdf.js leaves out of a page, by the warning that it prints. */
const OMISSIONS: [RegExp, string][] = [
  [/Unable to decode (inline )?image/, 'an image cannot be decoded'],
  [/(getOperatorList|getContentStream|parseShading|handleTilingType) - ignoring/, PART],
];

/** The WebAssembly decoders of pdf.js abort when they get no memory; broken data makes them fail in other words. */
const ABORTED = /Unable to decode .*(Aborted\(|unreachable)|OpenJPEG: .*(memory|allocat)/i;

/** The kind of a message that ends a stream with an error. */
const STREAM_ERROR = 5;

/** The port between the half of pdf.js that parses and the half that draws, both in this thread. */
export interface MessagePort {
  addEventListener(type: 'message', listener: (event: { data: { stream?: number; reason?: unknown } }) => void): void;
}

/** Thrown in place of work that would never end: pdf.js failed where no code waits for the result. */
export class Stuck extends Error {}

/**
 * Collects the errors that pdf.js hides: it prints a warning, rejects a promise that no code handles (which would end
 * the process), or stops reading a page and draws the rest.
 */
export class HiddenErrors {
  #complaints = new Set<string>();
  #refusal: Error | undefined;
  #stuck = Promise.withResolvers<never>();

  constructor() {
    subscribe('console.warn', this.#onWarning);
    process.on('unhandledRejection', this.#onRejection);
  }

  /** Watches for pages whose content ended with an error, which pdf.js does not report. */
  watch(port: MessagePort): void {
    port.addEventListener('message', ({ data }) => {
      if (data.stream === STREAM_ERROR) this.#onOmission(messageOf(data.reason));
    });
  }

  /**
   * Does one piece of work, never two at a time, and returns its result with the parts that are missing from it. Throws
   * `Stuck`, or an error about memory when pdf.js could not get any.
   */
  async run<T>(work: () => Promise<T>): Promise<{ result: T; complaints: string[] }> {
    this.#complaints = new Set();
    this.#refusal = undefined;
    this.#stuck = Promise.withResolvers();
    const outcome = Promise.race([work(), this.#stuck.promise]);
    // The errors of both are thrown below, after the rejections are reported.
    await Promise.allSettled([outcome]);
    await rejectionsReported();
    if (this.#refusal !== undefined) throw this.#refusal;
    return { result: await outcome, complaints: [...this.#complaints] };
  }

  /** Removes the listeners that the constructor added. */
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

  #onOmission(text: string): void {
    this.#noteRefusal(text);
    this.#complaints.add(PART);
  }

  /** The half that parses continues after such an error. The half that draws does not. */
  readonly #onRejection = (cause: unknown): void => {
    const stack = cause instanceof Error ? `${cause.stack}` : '';
    if (stack.includes('/pdf.mjs') && !stack.includes('/pdf.worker.mjs')) {
      this.#noteRefusal(messageOf(cause));
      this.#stuck.reject(new Stuck('pdf.js failed', { cause }));
    } else {
      this.#onOmission(messageOf(cause));
    }
  };

  /** A page for which pdf.js got too little memory may lack more than pdf.js reports. */
  #noteRefusal(text: string): void {
    if (isOutOfMemory({ message: text }) || ABORTED.test(text)) this.#refusal ??= new Error(`out of memory: ${text}`);
  }
}

/** An error that crossed the port is a plain object. */
function messageOf(reason: unknown): string {
  return typeof reason === 'object' && reason !== null && 'message' in reason ? `${reason.message}` : `${reason}`;
}

/** Node reports an unhandled rejection after all promises that are ready have run. */
function rejectionsReported(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
