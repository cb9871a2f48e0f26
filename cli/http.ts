import { setTimeout as delay } from 'node:timers/promises';
import type { Multipart } from './multipart.ts';

/** For how long a call is repeated while the service is away or asks to come back later. */
export const PATIENCE_MS = 60_000;
const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 5_000;

/** What the service answered instead of doing as asked. `message` is the problem's `detail`. */
export class ProblemError extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly request_id: string | null;
  /** The whole problem: some codes bring members of their own, such as `cycle`. */
  readonly problem: Record<string, unknown>;
  /** When the service wants to be asked again; null where it does not say. */
  readonly retryAfterMs: number | null;

  constructor(status: number, problem: Record<string, unknown>, retryAfterMs: number | null = null) {
    const detail = typeof problem.detail === 'string' ? problem.detail : `the answer was ${status}`;
    super(detail);
    this.name = 'ProblemError';
    this.status = status;
    this.code = typeof problem.code === 'string' ? problem.code : 'unexpected_answer';
    this.detail = detail;
    this.request_id = typeof problem.request_id === 'string' ? problem.request_id : null;
    this.problem = problem;
    this.retryAfterMs = retryAfterMs;
  }
}

/** There was no answer, or not all of one. */
export class UnreachableError extends Error {
  override readonly name = 'UnreachableError';
  /** Nothing was sent, so that nothing can have been done. */
  readonly isRefused: boolean;

  constructor(url: string, cause: unknown) {
    const { message, code } = (cause ?? {}) as { message?: string; code?: string };
    super(`${url} cannot be reached: ${message || code || 'the connection broke'}`, { cause });
    this.isRefused = code === 'ECONNREFUSED';
  }
}

export interface ClientOptions {
  /** Where the service is, such as `http://127.0.0.1:3000`; it may have a path. */
  url: string;
  /** The API key, for services that want one. */
  key?: string | undefined;
  /** Ends every call that is under way, and those to come. */
  signal?: AbortSignal | undefined;
}

export interface Call {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  query?: object;
  json?: unknown;
  form?: Multipart;
  /** Makes it safe to send a POST again. */
  idempotencyKey?: string;
  /** Seconds for which the service may hold its answer. */
  wait?: number;
  /** Is not repeated: what counts is how things are now. */
  once?: boolean;
  signal?: AbortSignal | undefined;
}

export type Http = ReturnType<typeof createHttp>;

/** Sends calls, with the key, and repeats them while the service is away, as far as that is safe. */
export function createHttp(options: ClientOptions) {
  const base = options.url.replace(/\/+$/, '');
  const authorization: Record<string, string> =
    options.key === undefined ? {} : { Authorization: `Bearer ${options.key}` };

  async function send({ method = 'GET', path, query = {}, json, form, idempotencyKey, wait, signal }: Call) {
    const url = `${base}${path}${searchOf(query)}`;
    const response = await fetch(url, {
      method,
      headers: {
        ...authorization,
        ...(json !== undefined && { 'Content-Type': 'application/json' }),
        ...(form && { 'Content-Type': form.contentType }),
        ...(idempotencyKey !== undefined && { 'Idempotency-Key': idempotencyKey }),
        ...(wait !== undefined && { Prefer: `wait=${wait}` }),
      },
      body: form ? ReadableStream.from(form.read()) : json === undefined ? null : JSON.stringify(json),
      duplex: 'half',
      signal: signal ?? null,
      // Otherwise fetch keeps a copy of all that it has sent, for a redirect to come.
      ...(form && { window: null, redirect: 'error' }),
    });
    if (!response.ok) throw problemOf(response.status, await response.text(), response.headers.get('Retry-After'));
    return response;
  }

  /**
   * Gives what `use` makes of the answer; both are repeated when the connection breaks.
   * Throws ProblemError, UnreachableError, the reason of a signal, or what `use` throws.
   */
  async function call<T>(asked: Call, use: (response: Response) => Promise<T>): Promise<T> {
    const signals = [options.signal, asked.signal].filter((signal) => signal !== undefined);
    const signal = signals.length > 1 ? AbortSignal.any(signals) : signals[0];
    const deadline = performance.now() + (asked.once ? 0 : PATIENCE_MS);
    let hasBroken = false;
    for (let pause = FIRST_DELAY_MS; ; pause = Math.min(pause * 2, MAX_DELAY_MS)) {
      try {
        return await use(await send({ ...asked, signal }));
      } catch (thrown) {
        signal?.throwIfAborted();
        const error = asked.form?.failure ?? (isBroken(thrown) ? new UnreachableError(base, thrown.cause) : thrown);
        const ms = (error instanceof ProblemError && error.retryAfterMs) || pause * (1 + Math.random());
        if (!mayRepeat(asked, error, hasBroken) || performance.now() + ms > deadline) throw error;
        hasBroken ||= error instanceof UnreachableError;
        await delay(ms, undefined, { signal });
      }
    }
  }

  return {
    base,
    authorization,
    signal: options.signal,
    call,
    json: <T>(asked: Call): Promise<T> => call(asked, (response) => readJson<T>(response)),
    nothing: (asked: Call): Promise<void> => call(asked, async (response) => void (await response.text())),
  };
}

async function readJson<T>(response: Response): Promise<T> {
  const body = await response.text();
  try {
    return JSON.parse(body);
  } catch (cause) {
    throw new Error(`${response.url} answers no JSON: is that sheetmill?`, { cause });
  }
}

/** Reads a problem+json; an answer by somebody else, such as a proxy, has no code of ours. */
export function problemOf(status: number, body: string, retryAfter: string | null | undefined): ProblemError {
  let problem: Record<string, unknown> = {};
  try {
    problem = { ...JSON.parse(body) };
  } catch {
    // Not by the service itself.
  }
  const seconds = Number(retryAfter ?? undefined);
  return new ProblemError(status, problem, Number.isFinite(seconds) ? seconds * 1000 : null);
}

export function searchOf(query: object): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const search = new URLSearchParams(given.map(([name, value]): [string, string] => [name, String(value)])).toString();
  return search && `?${search}`;
}

/** What fetch throws when a connection fails or ends too early, told by its words; all else is no fault of the network. */
function isBroken(error: unknown): error is Error {
  const { name, message } = error as Error;
  return name === 'TypeError' && /^(fetch failed|terminated)$/.test(message);
}

function mayRepeat({ method = 'GET', idempotencyKey }: Call, error: unknown, hasBroken: boolean): boolean {
  const isSafe = method === 'GET' || method === 'PUT' || idempotencyKey !== undefined;
  if (error instanceof UnreachableError) return isSafe || error.isRefused;
  if (!(error instanceof ProblemError)) return false;
  if (error.status === 429 || error.status === 503) return true;
  // The service may not have noticed yet that the one before has broken off.
  return error.status === 409 && hasBroken && idempotencyKey !== undefined;
}
