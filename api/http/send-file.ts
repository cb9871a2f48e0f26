import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { AppError } from '../../runtime/errors.ts';
import type { Store } from '../../store/store.ts';

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
 * may be kept for good. Where clients fetch from the store themselves, sends them there. Throws 404, 412, 416 and 503.
 */
export async function sendStored(request: Request, response: Response, store: Store, file: Stored): Promise<void> {
  const { path, sha256, bytes, type, disposition } = file;
  const etag = `"${sha256}"`;
  const kept = {
    ETag: etag,
    'Cache-Control': 'private, max-age=31536000, immutable',
    'Content-Disposition': disposition,
  };
  const forget = () => {
    for (const header of Object.keys(kept)) response.removeHeader(header);
  };
  response.set({ 'Accept-Ranges': 'bytes', ...kept });
  let range: Range | undefined;
  let content: Readable | undefined;
  try {
    refuseUnmatched(request, etag);
    if (request.fresh) {
      response.status(304).end();
      return;
    }
    range = rangeOf(request, response, etag, bytes);
    if (request.method !== 'HEAD') {
      // The dashboard may load nothing from elsewhere, and other pages do not ask from here.
      if (store.link !== undefined && request.get('Sec-Fetch-Site') !== 'same-origin') {
        const link = await store.link(path, { type, disposition });
        forget();
        // It is good for a few minutes.
        response.status(307).set({ Location: link, 'Cache-Control': 'private, no-store' }).end();
        return;
      }
      content = await store.read(path, range);
    }
  } catch (error) {
    // What tells of an error is not to be kept.
    forget();
    throw error;
  }
  response.set({ 'Content-Type': type, 'Content-Length': String(range ? range.end - range.start + 1 : bytes) });
  if (range) response.status(206).set('Content-Range', `bytes ${range.start}-${range.end}/${bytes}`);
  if (content === undefined) {
    response.end();
    return;
  }
  // A client that stops reading is no failure of ours; what fails on our side breaks the connection off.
  await pipeline(content, response).catch(() => undefined);
  // One that has gone before is not piped to at all, and the file would stay open.
  content.destroy();
}

type Range = { start: number; end: number };

function refuseUnmatched(request: Request, etag: string): void {
  const wanted = request.get('If-Match');
  if (!wanted || wanted === '*') return;
  const tags = wanted.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  if (!tags.includes(etag)) {
    throw new AppError('invalid_request', 'If-Match: the file has another ETag', { status: 412 });
  }
}

/** The one range that is asked for, if the client has the same file; several, and what is no range, are answered with the whole. */
function rangeOf(request: Request, response: Response, etag: string, bytes: number): Range | undefined {
  const condition = request.get('If-Range');
  if (condition !== undefined && condition.replace(/^W\//, '') !== etag) return undefined;
  if (!/^ *bytes=/.test(request.get('Range') ?? '')) return undefined;
  const ranges = request.range(bytes, { combine: true });
  if (ranges === -1) {
    response.set('Content-Range', `bytes */${bytes}`);
    throw new AppError('invalid_request', `the file has ${bytes} bytes, and none in that range`, { status: 416 });
  }
  return Array.isArray(ranges) && ranges.length === 1 ? ranges[0] : undefined;
}
