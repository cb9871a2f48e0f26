import { on } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import WebSocket from 'ws';
import { type ProblemError, UnreachableError } from './errors.ts';
import { anySignal, type Http, problemOf, RETRY_TIMEOUT_MS, searchOf } from './http.ts';

/** The service pings every 30 seconds: a connection that is silent for longer is lost. */
const SILENCE_TIMEOUT_MS = 90_000;
const HANDSHAKE_TIMEOUT_MS = 30_000;
const RECONNECT_MS = 1_000;
/** Events that are buffered for a slow reader before the socket is paused. */
const MAX_BUFFERED = 1_000;

/**
 * The endless events of the WebSocket at `path`. A broken connection is replaced and resumes after the last event.
 * Throws ProblemError if the service refuses it, UnreachableError if no connection succeeds for a minute.
 */
export async function* followEvents<Event extends { id: number }>(
  http: Http,
  path: string,
  { signal: own, after, ...query }: { signal?: AbortSignal | undefined; after?: number | undefined },
): AsyncGenerator<Event, never> {
  const signal = anySignal(http.signal, own);
  let last = after;
  let brokenSince: number | undefined;
  for (;;) {
    signal?.throwIfAborted();
    const socket = new EventSocket(http, `${path}${searchOf({ ...query, after: last })}`);
    try {
      for await (const event of socket.events<Event>(signal)) {
        last = event.id;
        yield event;
      }
    } finally {
      socket.close();
    }
    const { refusal, hasOpened, failure } = socket;
    if (refusal !== undefined && refusal.status !== 503 && refusal.status !== 429) throw refusal;
    if (hasOpened) brokenSince = undefined;
    brokenSince ??= performance.now();
    if (performance.now() - brokenSince > RETRY_TIMEOUT_MS) throw refusal ?? new UnreachableError(http.base, failure);
    await delay(refusal?.retryAfterMs ?? RECONNECT_MS, undefined, { signal });
  }
}

/** One connection to the stream of events. */
class EventSocket {
  /** The answer of a service that did not accept the connection. */
  refusal: ProblemError | undefined;
  /** The reason of a lost connection. */
  failure: unknown;
  hasOpened = false;
  readonly #socket: WebSocket;
  readonly #silence: NodeJS.Timeout;

  constructor({ base, authorization }: Http, path: string) {
    const url = base.replace(/^http/, 'ws') + path;
    const socket = new WebSocket(url, { headers: authorization, handshakeTimeout: HANDSHAKE_TIMEOUT_MS });
    this.#socket = socket;
    this.#silence = setTimeout(() => socket.terminate(), SILENCE_TIMEOUT_MS);
    // `events` reports errors as well, but not those that come after its end.
    socket.on('error', (error) => {
      this.failure = error;
    });
    socket.on('open', () => {
      this.hasOpened = true;
    });
    socket.on('ping', () => this.#silence.refresh());
    socket.on('unexpected-response', async (_request, response) => {
      const body = await text(response).catch(() => '');
      this.refusal = problemOf(response.statusCode ?? 0, body, response.headers['retry-after']);
      socket.terminate();
    });
  }

  /** The events until the connection ends. Throws only if the signal is aborted. */
  async *events<Event>(signal: AbortSignal | undefined): AsyncGenerator<Event, void> {
    const options = { close: ['close'], signal, highWaterMark: MAX_BUFFERED, lowWaterMark: MAX_BUFFERED / 10 };
    try {
      for await (const [data] of on(this.#socket, 'message', options)) {
        const event: Event = JSON.parse(String(data));
        yield event;
      }
    } catch (error) {
      signal?.throwIfAborted();
      this.failure = error;
    }
  }

  close(): void {
    clearTimeout(this.#silence);
    this.#socket.terminate();
  }
}
