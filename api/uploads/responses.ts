import { z } from 'zod';
import { PRIORITIES, UPLOAD_STATUSES } from '../../db/schema.ts';
import { failure, time } from '../http/fields.ts';
import { listOf } from '../http/pagination.ts';

/** The schemas of the documents that documents.ts makes. */

const bytes = z.int().min(0);
const url = z.string().describe('The URL path of the bytes');
const path = z.string().describe('The path in the store, relative to its root');

const progress = z.strictObject({
  pages_done: z.int().min(0),
  pages_total: z.int().nullable().describe('Null until the pages of every original are counted'),
});

export const uploadSummary = z.strictObject({
  id: z.uuid(),
  status: z.enum(UPLOAD_STATUSES),
  created_at: time,
  finished_at: time.nullable(),
  expires_at: time.nullable(),
  priority: z.enum(PRIORITIES),
  notify_url: z.string().nullable(),
  progress,
  error: failure.nullable(),
});

export const original = z.strictObject({
  original: z.int(),
  filename: z.string().nullable().describe('The name that the client sent, for display'),
  media_type: z.enum(['application/pdf', 'image/png', 'image/jpeg']),
  bytes,
  sha256: z.string(),
  path,
  page_count: z.int().nullable().describe('Null until the original is inspected'),
  error: failure.nullable(),
  url,
});

export const page = z.strictObject({
  original: z.int(),
  page: z.int(),
  status: z.enum(['completed', 'failed']),
  path: path.nullable(),
  width: z.int().nullable(),
  height: z.int().nullable(),
  bytes: bytes.nullable(),
  dpi: z.number().nullable().describe('Effective dpi; null for images'),
  reduced: z.string().nullable().describe('The reason that the page has less than the requested dpi'),
  engine: z.string().nullable().describe('The engine that drew the page'),
  note: z.string().nullable().describe('The reason that another engine than the first drew the page'),
  error: failure.nullable(),
  url: url.nullable(),
});

export const upload = uploadSummary.extend({
  originals: z.array(original),
  pages: z.array(page).max(200).describe('The first 200 pages'),
  pages_next_cursor: z.string().nullable().describe('The `cursor` of `GET /uploads/{id}/pages` for the other pages'),
});
export const listedUpload = uploadSummary.extend({
  filenames: z.array(z.string().nullable()).describe('The file names of its originals, in order'),
});
export const uploadList = listOf(listedUpload);
export const uploadStatus = z.strictObject({
  id: z.uuid(),
  status: z.enum(UPLOAD_STATUSES),
  done: z.boolean().describe('True once the upload is completed, failed or cancelled'),
  progress,
  error: failure.nullable(),
});
/** The data of a webhook about an upload. */
export const uploadNotice = uploadStatus.extend({
  finished_at: time.nullable(),
  counts: z.strictObject({ originals: z.int(), pages_completed: z.int(), pages_failed: z.int() }),
  url: z.string().describe('The URL path of the upload'),
});
export const uploadPages = listOf(page).extend({ id: z.uuid(), status: z.enum(UPLOAD_STATUSES) });
export const uploadOriginals = z.strictObject({ id: z.uuid(), items: z.array(original) });
