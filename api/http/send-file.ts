import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { AppError } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Store } from '../../store/store.ts';
import { stateOf } from './request-state.ts';

/** A file in the store, and the headers with which it is sent. */
export interface StoredFile {
  path: string;
  sha256: string;
  bytes: number;
  type: string;
  disposition: string;
}

interface Range {
  start: number;
  end: number;
}

/** The headers that make an answer cacheable. */
const CACHE_HEADERS = ['ETag', 'Cache-Control', 'Content-Disposition'];

/**
 * Sends a stored file. Its bytes never change, so clients may cache it permanently, and conditional and range requests (one
 * range) are supported. Redirects to the store where the store gives links to clients. Throws 404, 412, 416 and 503; an error
 * after the first byte is logged and closes the connection.
 */
export async function sendFile(
  request: Request,
  response: Response,
  { store, log }: { store: Store; log: Logger },
  file: StoredFile,
): Promise<void> {
  const { path, bytes, type } = file;
  setCacheHeaders(response, file);
  let range: Range | undefined;
  let content: Readable | undefined;
  try {
    refuseUnmatched(request, file);
    if (request.fresh) {
      response.status(304).end();
      return;
    }
    range = rangeOf(request, response, file);
    if (request.method !== 'HEAD') {
      const link = await linkTo(request, store, file);
      if (link !== undefined) return redirect(response, link);
      content = await store.read(path, range);
    }
  } catch (error) {
    removeCacheHeaders(response);
    throw error;
  }
  response.set({ 'Content-Type': type, 'Content-Length': String(range ? range.end - range.start + 1 : bytes) });
  if (range) response.status(206).set('Content-Range', `bytes ${range.start}-${range.end}/${bytes}`);
  if (content === undefined) {
    response.end();
    return;
  }
  await pipeline(content, response).catch((error) => {
    if (isDisconnect(error)) return;
    log.error({ err: error, request: stateOf(request).id, path }, 'file not sent completely');
  });
  // A pipeline to a client that disconnected before does not start, and would leave the file open.
  content.destroy();
}

/** True if a pipeline to a client failed because the client disconnected. */
export function isDisconnect(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return code === 'ERR_STREAM_PREMATURE_CLOSE' || code === 'ERR_STREAM_UNABLE_TO_PIPE';
}

const etagOf = ({ sha256 }: StoredFile) => `"${sha256}"`;

function setCacheHeaders(response: Response, file: StoredFile): void {
  response.set({
    'Accept-Ranges': 'bytes',
    ETag: etagOf(file),
    'Cache-Control': 'private, max-age=31536000, immutable',
    'Content-Disposition': file.disposition,
  });
}

/** Errors and redirects must not be cached as the file. */
function removeCacheHeaders(response: Response): void {
  for (const header of CACHE_HEADERS) response.removeHeader(header);
}

/** A link to the store; undefined for stores without links, and for the dashboard, which may load nothing from other origins. */
async function linkTo(request: Request, store: Store, file: StoredFile): Promise<string | undefined> {
  if (request.get('Sec-Fetch-Site') === 'same-origin') return undefined;
  return store.link?.(file.path, { type: file.type, disposition: file.disposition });
}

/** The link expires after a few minutes. */
function redirect(response: Response, link: string): void {
  removeCacheHeaders(response);
  response.status(307).set({ Location: link, 'Cache-Control': 'private, no-store' }).end();
}

function refuseUnmatched(request: Request, file: StoredFile): void {
  const wanted = request.get('If-Match');
  if (!wanted || wanted === '*') return;
  const tags = wanted.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  if (!tags.includes(etagOf(file))) {
    throw new AppError('invalid_request', `If-Match: the ETag of the file is ${etagOf(file)}`, { status: 412 });
  }
}

/** The requested range if the client has the same file. Several or invalid ranges get the whole file. */
function rangeOf(request: Request, response: Response, file: StoredFile): Range | undefined {
  const condition = request.get('If-Range');
  if (condition !== undefined && condition.replace(/^W\//, '') !== etagOf(file)) return undefined;
  if (!/^ *bytes=/.test(request.get('Range') ?? '')) return undefined;
  const ranges = request.range(file.bytes, { combine: true });
  if (ranges === -1) {
    response.set('Content-Range', `bytes */${file.bytes}`);
    throw new AppError('invalid_request', `Range: the file has ${file.bytes} bytes, none of them in the range`, {
      status: 416,
    });
  }
  return Array.isArray(ranges) && ranges.length === 1 ? ranges[0] : undefined;
}
