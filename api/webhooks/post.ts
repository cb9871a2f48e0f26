import { once } from 'node:events';
import http, { IncomingMessage } from 'node:http';
import https from 'node:https';
import { isIP } from 'node:net';
import { type Guard, guardedLookup, hostOf } from './ssrf-guard.ts';

/** Bytes of the answer that are read, so that the receiver can finish; only the status matters. */
const MAX_READ_BYTES = 16_384;

interface Message {
  headers: Record<string, string>;
  body: string;
  guard: Guard;
  signal: AbortSignal;
}

/**
 * POSTs `body` over a separate connection to an address that the guard allows, and follows no redirect. Returns the
 * status of the answer; throws when there is none before `signal` aborts.
 */
export async function post(url: URL, { headers, body, guard, signal }: Message): Promise<number> {
  const host = hostOf(url);
  // Sockets look up names only, so `guardedLookup` never sees an address.
  const refusal = isIP(host) === 0 ? undefined : guard(host, host);
  if (refusal !== undefined) throw new Error(refusal);
  const { request } = url.protocol === 'https:' ? https : http;
  const sent = request(url, {
    method: 'POST',
    headers: { ...headers, 'Content-Length': Buffer.byteLength(body) },
    agent: false,
    lookup: guardedLookup(guard),
    signal,
  });
  sent.end(body);
  const [response] = await once(sent, 'response');
  if (!(response instanceof IncomingMessage) || response.statusCode === undefined) throw new Error('no HTTP answer');
  // The status is known, so an error of the connection changes nothing from here on.
  sent.on('error', () => undefined);
  await drain(response).catch(() => undefined);
  return response.statusCode;
}

async function drain(response: IncomingMessage): Promise<void> {
  let left = MAX_READ_BYTES;
  for await (const chunk of response) {
    left -= chunk.length;
    if (left < 0) break;
  }
}
