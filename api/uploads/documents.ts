import type { z } from 'zod';
import type { ListedUpload, Original, Page, PageCursor, Upload, UploadCounts } from '../../db/uploads.ts';
import { formatTime } from '../http/fields.ts';
import { writePageCursor } from './requests.ts';
import type * as responses from './responses.ts';

/** Documents made from rows. */

function uploadSummary(upload: Upload): z.output<typeof responses.uploadSummary> {
  return {
    id: upload.id,
    status: upload.status,
    created_at: formatTime(upload.createdAt),
    finished_at: formatTime(upload.finishedAt),
    expires_at: formatTime(upload.expiresAt),
    priority: upload.priority,
    notify_url: upload.notifyUrl,
    progress: progressOf(upload),
    error: upload.error,
  };
}

export function listedUpload(upload: ListedUpload): z.output<typeof responses.listedUpload> {
  return { ...uploadSummary(upload), filenames: upload.filenames };
}

export function uploadDocument(
  upload: Upload,
  originals: Original[],
  pages: { items: Page[]; next: PageCursor | null } = { items: [], next: null },
): z.output<typeof responses.upload> {
  return {
    ...uploadSummary(upload),
    originals: originals.map(originalDocument),
    pages: pages.items.map(pageDocument),
    pages_next_cursor: writePageCursor(pages.next),
  };
}

export function statusDocument(upload: Upload): z.output<typeof responses.uploadStatus> {
  return {
    id: upload.id,
    status: upload.status,
    done: upload.finishedAt !== null,
    progress: progressOf(upload),
    error: upload.error,
  };
}

/** The data of a webhook about an upload, without its pages. */
export function uploadNotice(upload: Upload, counts: UploadCounts): z.output<typeof responses.uploadNotice> {
  return {
    ...statusDocument(upload),
    finished_at: formatTime(upload.finishedAt),
    counts: {
      originals: counts.originals,
      pages_completed: counts.pagesCompleted,
      pages_failed: counts.pagesFailed,
    },
    url: `/uploads/${upload.id}`,
  };
}

export function originalDocument(original: Original): z.output<typeof responses.original> {
  return {
    original: original.original,
    filename: original.filename,
    media_type: original.mediaType,
    bytes: original.bytes,
    sha256: original.sha256,
    path: original.path,
    page_count: original.pageCount,
    error: original.error,
    url: `/uploads/${original.uploadId}/originals/${original.original}`,
  };
}

export function pageDocument(page: Page): z.output<typeof responses.page> {
  return {
    original: page.original,
    page: page.page,
    status: page.status,
    path: page.path,
    width: page.width,
    height: page.height,
    bytes: page.bytes,
    dpi: page.dpi,
    reduced: page.reduced,
    engine: page.engine,
    note: page.note,
    error: page.error,
    url: page.path === null ? null : `/uploads/${page.uploadId}/pages/${page.original}/${page.page}.png`,
  };
}

function progressOf({ pagesDone, pagesTotal }: Upload) {
  return { pages_done: pagesDone, pages_total: pagesTotal };
}
