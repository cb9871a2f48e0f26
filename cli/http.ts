import { setTimeout as delay } from 'node:timers/promises';
import { messageOf, ProblemError, UnreachableError } from './errors.ts';
import type { Multipart } from './multipart.ts';

/** Calls are repeated for this long. */
export const RETRY_TIMEOUT_MS = 60_000;
const MIN_BACKOFF_MS = 250;
const MAX_BACKOFF_MS = 5_000;

export interface ClientOptions {
  /** The URL of the service, such as `http://127.0.0.1:3000`; it may have a path. */
  url: string;
  /** The API key, for services that require one. */
  key?: string | undefined;
  /** Aborts running and later calls. */
  signal?: AbortSignal | undefined;
}

export interface Call {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  query?: object;
  json?: unknown;
  form?: Multipart;
  /** Makes a POST safe to repeat. */
  idempotencyKey?: string;
  /** The maximum seconds of a long poll. */
  wait?: number;
  /** The call is not repeated. */
  once?: boolean;
  signal?: AbortSignal | undefined;
}

/** Sends calls with the key, and repeats those that are safe to repeat while the service is unavailable. */
export class Http {
  /** The URL of the service, without a slash at its end. */
  readonly base: string;
  readonly authorization: Record<string, string>;
  readonly signal: AbortSignal | undefined;

  constructor({ url, key, signal }: ClientOptions) {
    this.base = url.replace(/\/+$/, '');
    this.authorization = key === undefined ? {} : { Authorization: `Bearer ${key}` };
    this.signal = signal;
  }

  json<T>(call: Call): Promise<T> {
    return this.call(call, (response) => readJson<T>(response));
  }

  /** For answers without a body. */
  nothing(call: Call): Promise<void> {
    return this.call(call, async (response) => void (await response.text()));
  }

  /**
   * Resolves with the result of `use`, which runs again if the connection breaks.
   * Throws ProblemError, UnreachableError, the reason of a signal, or the error of `use`.
   */
  async call<T>(call: Call, use: (response: Response) => Promise<T>): Promise<T> {
    const signal = anySignal(this.signal, call.signal);
    const deadline = performance.now() + (call.once ? 0 : RETRY_TIMEOUT_MS);
    let hasBroken = false;
    for (let backoff = MIN_BACKOFF_MS; ; backoff = Math.min(backoff * 2, MAX_BACKOFF_MS)) {
      try {
        return await use(await this.#send({ ...call, signal }));
      } catch (thrown) {
        signal?.throwIfAborted();
        const error = call.form?.failure ?? (isBroken(thrown) ? new UnreachableError(this.base, thrown.cause) : thrown);
        const ms = (error instanceof ProblemError && error.retryAfterMs) || backoff * (1 + Math.random());
        if (!mayRepeat(call, error, hasBroken) || performance.now() + ms > deadline) throw error;
        hasBroken ||= error instanceof UnreachableError;
        await delay(ms, undefined, { signal });
      }
    }
  }

  async #send({ method = 'GET', path, query = {}, json, form, idempotencyKey, wait, signal }: Call): Promise<Response> {
    const response = await fetch(`${this.base}${path}${searchOf(query)}`, {
      method,
      headers: {
        ...this.authorization,
        ...(json !== undefined && { 'Content-Type': 'application/json' }),
        ...(form && { 'Content-Type': form.contentType }),
        ...(idempotencyKey !== undefined && { 'Idempotency-Key': idempotencyKey }),
        ...(wait !== undefined && { Prefer: `wait=${wait}` }),
      },
      body: form ? ReadableStream.from(form.read()) : json === undefined ? null : JSON.stringify(json),
      duplex: 'half',
      signal: signal ?? null,
      // For a possible redirect fetch would keep a copy of the whole body.
      ...(form && { window: null, redirect: 'error' }),
    });
    if (!response.ok) throw problemOf(response.status, await response.text(), response.headers.get('Retry-After'));
    return response;
  }
}

/** A signal that is aborted with the first of the given ones; undefined if there are none. */
export function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal | undefined {
  const given = signals.filter((signal) => signal !== undefined);
  return given.length > 1 ? AbortSignal.any(given) : given[0];
}

async function readJson<T>(response: Response): Promise<T> {
  const body = await response.text();
  try {
    return JSON.parse(body);
  } catch (cause) {
    throw new Error(`${response.url} did not answer with JSON: is it a sheetmill service?`, { cause });
  }
}

/** Reads a problem+json. An answer by another server, such as a proxy, has no code. */
export function problemOf(status: number, body: string, retryAfter: string | null | undefined): ProblemError {
  const seconds = Number(retryAfter ?? undefined);
  return new ProblemError(status, parseProblem(body), Number.isFinite(seconds) ? seconds * 1000 : null);
}

function parseProblem(body: string): Record<string, unknown> {
  try {
    return { ...JSON.parse(body) };
  } catch {
    // The body of a proxy is not JSON; the status alone is reported then.
    return {};
  }
}

export function searchOf(query: object): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const search = new URLSearchParams(given.map(([name, value]): [string, string] => [name, String(value)])).toString();
  return search && `?${search}`;
}

/** True for a connection that failed or ended early; fetch marks these errors only by their messages. */
function isBroken(error: unknown): error is Error {
  return /^(fetch failed|terminated)$/.test(messageOf(error));
}

function mayRepeat({ method = 'GET', idempotencyKey }: Call, error: unknown, hasBroken: boolean): boolean {
  const isSafe = method === 'GET' || method === 'PUT' || idempotencyKey !== undefined;
  if (error instanceof UnreachableError) return isSafe || error.isRefused;
  if (!(error instanceof ProblemError)) return false;
  if (error.status === 429 || error.status === 503) return true;
  // The service may still hold the key for the request whose connection broke.
  return error.status === 409 && hasBroken && idempotencyKey !== undefined;
}
