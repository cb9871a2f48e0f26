import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, type OutgoingHttpHeaders, request } from 'node:http';
import { buffer } from 'node:stream/consumers';
import type { Json } from '../../support/service.ts';

export const BOUNDARY = 'a-boundary';

/** One part of a multipart body, written as it stands: its headers, then its content. */
export function part(headers: string, content: string | Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`--${BOUNDARY}\r\n${headers}\r\n\r\n`), Buffer.from(content), Buffer.from('\r\n')]);
}

/** A part with a file; `filename` is what stands between the quotes. */
export function filePart(filename: string, content: string | Uint8Array, field = 'file'): Buffer {
  return part(
    `Content-Disposition: form-data; name="${field}"; filename="${filename}"\r\nContent-Type: application/octet-stream`,
    content,
  );
}

export const CLOSING = Buffer.from(`--${BOUNDARY}--\r\n`);

/** Opens a POST whose body the caller writes. Errors after the answer are none: a server may stop reading. */
export function openPost(url: string, headers: OutgoingHttpHeaders = {}): ClientRequest {
  const post = request(`${url}/uploads`, {
    method: 'POST',
    headers: { 'Content-Type': `multipart/form-data; boundary=${BOUNDARY}`, ...headers },
    agent: false,
  });
  post.on('error', () => undefined);
  return post;
}

/** The status, headers and parsed body of the answer. */
export async function answerTo(post: ClientRequest) {
  const [response] = (await Promise.race([
    once(post, 'response'),
    once(post, 'close').then(() => {
      throw new Error('the connection ended without an answer');
    }),
  ])) as [IncomingMessage];
  const body: Json = JSON.parse((await buffer(response)).toString());
  return { status: response.statusCode, headers: response.headers, body };
}

/** Sends a body of these parts, with its length. */
export async function post(url: string, parts: Buffer[], headers: OutgoingHttpHeaders = {}) {
  const body = Buffer.concat(parts);
  const opened = openPost(url, { 'Content-Length': body.length, ...headers });
  opened.end(body);
  return answerTo(opened);
}
