import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { isIP } from 'node:net';
import { type Guard, guardedLookup, hostOf } from './ssrf-guard.ts';

/** Of an answer nothing but its status counts; what is read of it only lets the receiver end in peace. */
const MAX_READ_BYTES = 16_384;

/**
 * POSTs `body` over a connection of its own, to an address that the guard allows, and follows no redirect. Gives the
 * status of the answer; throws when there is none by the time that `signal` aborts.
 */
export async function post(
  url: URL,
  {
    headers,
    body,
    guard,
    signal,
  }: { headers: Record<string, string>; body: string; guard: Guard; signal: AbortSignal },
): Promise<number> {
  const host = hostOf(url);
  // No socket looks up what is an address already.
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
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  // The status is known: whatever ends the connection from here on changes nothing.
  sent.on('error', () => undefined);
  try {
    let left = MAX_READ_BYTES;
    for await (const chunk of response) {
      left -= chunk.length;
      if (left < 0) break;
    }
  } catch {}
  return response.statusCode as number;
}
