import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { AppError } from '../errors.ts';
import type { Store } from '../store/store.ts';

/** A file of the store, and with which headers it is served. */
export interface Stored {
  path: string;
  sha256: string;
  bytes: number;
  type: string;
  disposition: string;
}

/**
 * Sends a stored file. Its bytes never change: conditional requests and ranges (one of them) are answered, and the answer
 * may be kept for good. Where clients fetch from the store themselves, sends them there. Throws 412 and 416.
 */
export async function sendStored(request: Request, response: Response, store: Store, file: Stored): Promise<void> {
  const { path, sha256, bytes, type, disposition } = file;
  const etag = `"${sha256}"`;
  if (store.link !== undefined) {
    // The link is good for a few minutes; what it leads to is kept no longer.
    response.set('Cache-Control', 'private, no-store').redirect(307, await store.link(path, { type, disposition }));
    return;
  }
  response.set('Accept-Ranges', 'bytes');
  const wanted = request.get('If-Match');
  if (wanted !== undefined && wanted !== '*' && !wanted.split(/\s*,\s*/).includes(etag)) {
    throw new AppError('invalid_request', 'If-Match: the file has another ETag', { status: 412 });
  }
  const range = rangeOf(request, response, etag, bytes);
  response.set({ ETag: etag, 'Cache-Control': 'private, max-age=31536000, immutable' });
  if (request.fresh) {
    response.status(304).end();
    return;
  }
  const content = request.method === 'HEAD' ? undefined : await store.read(path, range);
  response.set({
    'Content-Type': type,
    'Content-Disposition': disposition,
    'Content-Length': String(range ? range.end - range.start + 1 : bytes),
  });
  if (range) response.status(206).set('Content-Range', `bytes ${range.start}-${range.end}/${bytes}`);
  if (content === undefined) {
    response.end();
    return;
  }
  // A client that stops reading is no failure of ours; what fails on our side breaks the connection off.
  await pipeline(content, response).catch(() => undefined);
}

/** The one range that is asked for, if the client has the same file; several are answered with the whole. */
function rangeOf(request: Request, response: Response, etag: string, bytes: number) {
  const condition = request.get('If-Range');
  if (condition !== undefined && condition !== etag) return undefined;
  const ranges = request.range(bytes, { combine: true });
  if (ranges === -1) {
    response.set('Content-Range', `bytes */${bytes}`);
    throw new AppError('invalid_request', `the file has ${bytes} bytes, and none in that range`, { status: 416 });
  }
  return typeof ranges === 'object' && ranges.type === 'bytes' && ranges.length === 1 ? ranges[0] : undefined;
}
