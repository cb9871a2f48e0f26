import { on } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import WebSocket from 'ws';
import { type Http, PATIENCE_MS, type ProblemError, problemOf, searchOf, UnreachableError } from './http.ts';

/** The service pings every half minute: one that is silent for this long is gone. */
const SILENCE_MS = 90_000;
const HANDSHAKE_MS = 30_000;
const RECONNECT_MS = 1_000;
/** Events that wait here for a slow reader, before the service is made to wait. */
const MAX_WAITING = 1_000;

/**
 * The events of a WebSocket at `path`, without end. When the connection breaks it is made anew, and goes on after the
 * last event. Throws ProblemError when it is refused, UnreachableError when it cannot be made for a minute.
 */
export async function* followEvents<Event extends { id: number }>(
  { base, authorization, signal: general }: Http,
  path: string,
  { signal: own, after, ...query }: { signal?: AbortSignal | undefined; after?: number | undefined },
): AsyncGenerator<Event, never> {
  const signal = AbortSignal.any([general, own].filter((one) => one !== undefined));
  let last = after;
  let brokenSince: number | undefined;
  for (;;) {
    signal.throwIfAborted();
    const url = `${base.replace(/^http/, 'ws')}${path}${searchOf({ ...query, after: last })}`;
    const socket = new WebSocket(url, { headers: authorization, handshakeTimeout: HANDSHAKE_MS });
    const silence = setTimeout(() => socket.terminate(), SILENCE_MS);
    let refusal: ProblemError | undefined;
    let broken: unknown;
    // The iterator below hears of it, but not when it has ended before.
    socket.on('error', (error) => {
      broken = error;
    });
    socket.on('open', () => {
      brokenSince = undefined;
    });
    socket.on('ping', () => silence.refresh());
    socket.on('unexpected-response', async (_request, response) => {
      const body = await text(response).catch(() => '');
      refusal = problemOf(response.statusCode ?? 0, body, response.headers['retry-after']);
      socket.terminate();
    });
    const messages = on(socket, 'message', {
      close: ['close'],
      signal,
      highWaterMark: MAX_WAITING,
      lowWaterMark: MAX_WAITING / 10,
    } as Parameters<typeof on>[2]);
    try {
      for await (const [data] of messages) {
        const event = JSON.parse(String(data)) as Event;
        last = event.id;
        yield event;
      }
    } catch (error) {
      signal.throwIfAborted();
      broken = error;
    } finally {
      clearTimeout(silence);
      socket.terminate();
    }
    if (refusal !== undefined && refusal.status !== 503 && refusal.status !== 429) throw refusal;
    brokenSince ??= performance.now();
    if (performance.now() - brokenSince > PATIENCE_MS) throw refusal ?? new UnreachableError(base, broken);
    await delay(refusal?.retryAfterMs ?? RECONNECT_MS, undefined, { signal });
  }
}
