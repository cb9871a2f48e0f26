import type { z } from 'zod';
import { event } from '../events/responses.ts';
import * as jobs from '../jobs/responses.ts';
import * as uploads from '../uploads/responses.ts';

export const UPLOAD_ID = '01a20f50-4823-7e24-8897-32e4b8302ba6';
const CREATED_AT = '2026-11-24T20:47:29.436Z';
const FINISHED_AT = '2026-11-24T20:47:32.371Z';

const ORIGINAL = {
  original: 1,
  filename: 'letter.pdf',
  media_type: 'application/pdf',
  bytes: 817,
  sha256: 'e4cd85eac318d5c3826b0eb772422ec3a5c46b026476d5838e5ff28c33525bb9',
  path: `uploads/${UPLOAD_ID}/originals/1.pdf`,
  page_count: 1,
  error: null,
  url: `/uploads/${UPLOAD_ID}/originals/1`,
};

const PAGE = {
  original: 1,
  page: 1,
  status: 'completed',
  path: `uploads/${UPLOAD_ID}/pages/1-0001.1.png`,
  width: 1653,
  height: 2339,
  bytes: 64473,
  dpi: 200,
  reduced: null,
  engine: 'pdfium',
  note: null,
  error: null,
  url: `/uploads/${UPLOAD_ID}/pages/1/1.png`,
};

const STATUS = { id: UPLOAD_ID, status: 'completed', progress: { pages_done: 1, pages_total: 1 }, error: null };
const SUMMARY = {
  ...STATUS,
  created_at: CREATED_AT,
  finished_at: FINISHED_AT,
  expires_at: null,
  priority: 'normal',
  notify_url: null,
};

const JOB = {
  job_id: 'job_01a20f50-554b-7815-8ac3-556393c78d16',
  type: 'archive',
  status: 'ready',
  priority: 'normal',
  position_in_queue: 1,
  payload: { upload_id: UPLOAD_ID },
  resource_requirements: { cpu_units: 1, memory_mb: 256 },
  depends_on: [],
  run_on: 'success',
  retry_config: { max_attempts: 3, backoff_multiplier: 2, initial_delay_seconds: 1 },
  timeout_seconds: 300,
  run_at: null,
  notify_url: null,
  concurrency_key: null,
  upload_id: null,
  parent_id: null,
  progress: null,
  result: null,
  error: null,
  created_at: CREATED_AT,
  started_at: null,
  finished_at: null,
};

export const SCHEDULE_REQUEST = {
  cron: '0 3 * * *',
  timezone: 'Europe/Berlin',
  job: { type: 'archive', payload: { upload_id: UPLOAD_ID } },
};

export const EVENT = {
  id: 11,
  kind: 'job',
  job_id: JOB.job_id,
  upload_id: null,
  type: 'archive',
  status: 'running',
  attempt: 1,
  progress: null,
  at: CREATED_AT,
};

/** The examples of the main answers. Viewers make those of all other answers from their schemas. */
export const EXAMPLES: ReadonlyMap<unknown, object> = new Map<z.ZodType, object>([
  [uploads.original, ORIGINAL],
  [uploads.page, PAGE],
  [uploads.uploadSummary, SUMMARY],
  [uploads.listedUpload, { ...SUMMARY, filenames: ['letter.pdf'] }],
  [uploads.upload, { ...SUMMARY, originals: [ORIGINAL], pages: [PAGE], pages_next_cursor: null }],
  [uploads.uploadStatus, { ...STATUS, done: true }],
  [jobs.job, JOB],
  [jobs.listedJob, { ...JOB, position_in_queue: null }],
  [jobs.jobDetail, { ...JOB, attempts: [] }],
  [event, EVENT],
]);
