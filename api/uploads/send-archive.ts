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
import { archiveDisposition } from '../http/disposition.ts';
import { notFound } from '../http/problem.ts';
import { callerOf, stateOf } from '../http/request-state.ts';
import { releaseOnClose } from '../http/requester.ts';
import { isDisconnect } from '../http/send-file.ts';

interface ArchiveParts {
  db: Database;
  heavyDb: Database;
  /** Counts pages: each takes memory until its archive is sent. */
  archiveRoom: Quota;
  store: Store;
  log: Logger;
}

/**
 * Sends all completed pages of an upload that has ended as a zip, which is made page by page. Throws 409 while the upload has
 * not ended, since the archive would be incomplete; 404 when no page completed; 429 or 503 when archives of too many pages
 * are being sent. An error after the first byte closes the connection, so that the client does not take a part for the whole.
 */
export async function sendArchive(
  request: Request<{ id: string }>,
  response: Response,
  { db, heavyDb, archiveRoom, store, log }: ArchiveParts,
  upload: Upload,
): Promise<void> {
  const { id, finishedAt } = upload;
  if (finishedAt === null) {
    throw new AppError('conflict', 'the upload has not ended: the archive would lack pages', { status: 409 });
  }
  releaseOnClose(response, archiveRoom.take(callerOf(request).requester, upload.pagesDone));
  const pages = await listPageFiles(heavyDb, id);
  if (pages.length === 0) throw notFound(`a completed page of upload ${id}`);
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
    if (isDisconnect(error)) return;
    log.error({ err: error, request: stateOf(request).id, upload: id }, 'archive not sent completely');
  }
}

/** Changes whenever a byte of the archive does. The times in a zip are in the time zone of the process. */
function archiveTag(pages: { original: number; page: number; sha256: string }[], finishedAt: Date): string {
  const hash = createHash('sha256').update(`${finishedAt.getTime()} ${finishedAt.getTimezoneOffset()}`);
  for (const { original, page, sha256 } of pages) hash.update(` ${original}-${page} ${sha256}`);
  return hash.digest('hex');
}
