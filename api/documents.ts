import type { Original, Page, Upload } from '../db/uploads.ts';

/** The answers of the contract, made from rows. */

const time = (date: Date | null): string | null => date?.toISOString() ?? null;

export function uploadSummary(upload: Upload) {
  return {
    id: upload.id,
    status: upload.status,
    created_at: time(upload.createdAt),
    finished_at: time(upload.finishedAt),
    expires_at: time(upload.expiresAt),
    priority: upload.priority,
    notify_url: null,
    progress: progressOf(upload),
    error: upload.error,
  };
}

export function uploadDocument(upload: Upload, originals: Original[], pages: Page[]) {
  return {
    ...uploadSummary(upload),
    originals: originals.map(originalDocument),
    pages: pages.map(pageDocument),
  };
}

export function statusDocument(upload: Upload) {
  return {
    id: upload.id,
    status: upload.status,
    done: upload.finishedAt !== null,
    progress: progressOf(upload),
    error: upload.error,
  };
}

export function originalDocument(original: Original) {
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

export function pageDocument(page: Page) {
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
    error: page.error,
    url: page.path === null ? null : `/uploads/${page.uploadId}/pages/${page.original}/${page.page}.png`,
  };
}

function progressOf({ pagesDone, pagesTotal }: Upload) {
  return { pages_done: pagesDone, pages_total: pagesTotal };
}
