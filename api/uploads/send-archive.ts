import { createHash } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { zipPages, zipSize } from '../../conversion/zip-pages.ts';
import type { Database } from '../../db/client.ts';
import { findOriginal, listPageFiles, type Upload } from '../../db/uploads.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Quota } from '../../runtime/quota.ts';
import type { Store } from '../../store/store.ts';
import { callerOf } from '../http/admission.ts';
import { archiveDisposition } from '../http/disposition.ts';
import { giveOnClose, holderOf } from '../http/holder.ts';
import { notFound } from '../http/problem.ts';

/** What a pipeline says of a client that went meanwhile, or before. */
const GONE = ['ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_UNABLE_TO_PIPE'];

/**
 * All completed pages of an upload that has ended, as a zip that is made while it is sent, one page at a time. Throws 409
 * while the upload is not done, since an archive must not lack what is still to come; 404 when no page completed; 429 or
 * 503 when archives of too many pages are being sent, since each page takes memory until its archive ends. What
 * fails once bytes are out breaks the connection off, so that nobody takes a part for the whole.
 */
export async function sendArchive(
  request: Request,
  response: Response,
  { db, heavyDb, room, store, log }: { db: Database; heavyDb: Database; room: Quota; store: Store; log: Logger },
  upload: Upload,
): Promise<void> {
  const { id, finishedAt } = upload;
  if (finishedAt === null) {
    throw new AppError('conflict', 'the upload has not ended yet: an archive now would lack pages', { status: 409 });
  }
  giveOnClose(response, room.take(holderOf(callerOf(request)), upload.pagesDone));
  const pages = await listPageFiles(heavyDb, id);
  if (pages.length === 0) throw notFound(`a page of upload ${id}`);
  response.set({
    ETag: `"${archiveTag(pages, finishedAt)}"`,
    'Cache-Control': 'private, no-cache',
    'Content-Disposition': archiveDisposition(upload, await findOriginal(db, id, 1)),
  });
  if (request.fresh) {
    response.status(304).end();
    return;
  }
  response.set({ 'Content-Type': 'application/zip', 'Content-Length': String(zipSize(pages)) });
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  const files = pages.map(({ path, ...page }) => ({ ...page, open: () => store.read(path) }));
  try {
    await pipeline(zipPages(files, { mtime: finishedAt }), response);
  } catch (error) {
    // A client that goes away is no failure of ours.
    if (GONE.includes(`${(error as NodeJS.ErrnoException).code}`)) return;
    log.error({ err: error, request: response.locals.requestId }, 'archive broken off');
  }
}

/** Changes whenever a byte of the archive does. Zips hold the time in the zone of who makes them, too. */
function archiveTag(pages: { original: number; page: number; sha256: string }[], finishedAt: Date): string {
  const hash = createHash('sha256').update(`${finishedAt.getTime()} ${finishedAt.getTimezoneOffset()}`);
  for (const { original, page, sha256 } of pages) hash.update(` ${original}-${page} ${sha256}`);
  return hash.digest('hex');
}
