import type { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import type { Request, RequestHandler } from 'express';
import { AppError } from '../../runtime/errors.ts';
import type { Quota } from '../../runtime/quota.ts';
import { invalid } from './problem.ts';
import { callerOf } from './request-state.ts';
import { releaseOnClose } from './requester.ts';

/** Levels of objects and arrays in a body: a batch, its jobs, and their payloads. */
const MAX_DEPTH = 110;
/** How long a client may take to send a body. */
const MAX_BODY_MS = 60_000;
const MIN_BUFFER_BYTES = 1_024;
const DECODERS = new Map<string, () => NodeJS.ReadWriteStream & Readable>([
  ['gzip', createGunzip],
  ['deflate', createInflate],
  ['br', createBrotliDecompress],
]);

/**
 * Reads a JSON body (an object or array of at most `maxBytes`) into `request.body`. Its bytes take room until the request
 * ends. Throws 400, 413, 415, and 429 or 503 when there is no room.
 */
export function jsonBody(room: Quota, maxBytes: number, maxMs = MAX_BODY_MS): RequestHandler {
  return async function readJson(request, response, next) {
    if (response.destroyed) throw invalid('the client disconnected');
    requireJson(request);
    if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge(maxBytes);
    const { requester } = callerOf(request);
    const releases: (() => void)[] = [];
    releaseOnClose(response, () => {
      for (const release of releases) release();
    });
    const buffer = new GrowingBuffer(maxBytes, (bytes) => releases.push(room.take(requester, bytes)));
    const body = parseJson(await readInto(buffer, request, maxMs));
    if (isDeeperThan(MAX_DEPTH, body)) throw invalid(`the body is nested more than ${MAX_DEPTH} levels deep`);
    request.body = body;
    next();
  };
}

/** One buffer that grows with its content, so that many small chunks take no more memory than a large one. */
class GrowingBuffer {
  readonly #maxBytes: number;
  readonly #reserve: (bytes: number) => void;
  #bytes = Buffer.alloc(0);
  #length = 0;

  /** @param reserve is called before more bytes are allocated, and may throw */
  constructor(maxBytes: number, reserve: (bytes: number) => void) {
    this.#maxBytes = maxBytes;
    this.#reserve = reserve;
  }

  add(chunk: Buffer): void {
    const length = this.#length + chunk.length;
    if (length > this.#maxBytes) throw tooLarge(this.#maxBytes);
    if (length > this.#bytes.length) this.#grow(Math.max(MIN_BUFFER_BYTES, length, 2 * this.#bytes.length));
    this.#length += chunk.copy(this.#bytes, this.#length);
  }

  toString(): string {
    return new TextDecoder().decode(this.#bytes.subarray(0, this.#length));
  }

  #grow(wanted: number): void {
    const size = Math.min(this.#maxBytes, wanted);
    this.#reserve(size - this.#bytes.length);
    const larger = Buffer.allocUnsafeSlow(size);
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }
}

/** Gives the text of the complete body. */
async function readInto(body: GrowingBuffer, request: Request, maxMs: number): Promise<string> {
  const decoder = DECODERS.get(request.headers['content-encoding']?.toLowerCase() ?? '')?.();
  const source: Readable = decoder === undefined ? request : request.pipe(decoder);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onClose = () => request.readableEnded || reject(invalid('the client disconnected'));
  const timer = setTimeout(() => reject(invalid(`the body was not complete within ${maxMs / 1000} s`)), maxMs);
  const onData = (chunk: Buffer) => {
    try {
      body.add(chunk);
    } catch (error) {
      reject(error);
    }
  };
  source.on('data', onData).once('end', resolve);
  source.on('error', (cause) => reject(invalid(`the body cannot be read: ${cause.message}`)));
  request.once('close', onClose);
  try {
    await promise;
    return body.toString();
  } finally {
    clearTimeout(timer);
    request.off('close', onClose);
    source.off('data', onData);
    if (decoder !== undefined) request.unpipe(decoder);
    decoder?.destroy();
    // After an error the rest of the body is read and discarded, so that the client reads the answer.
    request.resume();
  }
}

function parseJson(text: string): unknown {
  if (text === '') return {};
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === 'object' && body !== null) return body;
  } catch (error) {
    throw invalid(`the body is not JSON: ${error instanceof Error ? error.message : error}`);
  }
  throw invalid('the body must be a JSON object or array');
}

function requireJson(request: Request): void {
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = request.headers;
  if (!request.is('application/json')) throw unsupported('Content-Type: must be application/json');
  const [, charset = 'utf-8'] = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(type) ?? [];
  if (charset.toLowerCase() !== 'utf-8') throw unsupported('Content-Type: charset must be utf-8');
  if (encoding !== 'identity' && !DECODERS.has(encoding.toLowerCase())) {
    throw unsupported(`Content-Encoding: must be one of identity, ${[...DECODERS.keys()].join(', ')}`);
  }
}

function isDeeperThan(levels: number, value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((member) => isDeeperThan(levels - 1, member));
}

function unsupported(message: string): AppError {
  return new AppError('unsupported_media_type', message, { status: 415 });
}

function tooLarge(maxBytes: number): AppError {
  return new AppError('file_too_large', `the body must have at most ${maxBytes / 2 ** 20} MB`, { status: 413 });
}
