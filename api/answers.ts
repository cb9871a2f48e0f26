import { z } from 'zod';
import {
  BULK_ACTIONS,
  JOB_STATUSES,
  LOG_LEVELS,
  MISSED,
  OVERLAPS,
  PRIORITIES,
  RUN_ON,
  UPLOAD_STATUSES,
} from '../db/schema.ts';

/** The answers of the contract, as zod schemas: documents.ts makes them from rows, openapi.ts describes them. */

const time = z.iso.datetime();
const bytes = z.int().min(0);
const url = z.string().describe('Where its bytes are, below this service');
const path = z.string().describe('In the store, relative to its root');

/** Why an upload, original, page, job or attempt failed. */
export const failure = z.strictObject({ code: z.string(), message: z.string() });

const progress = z.strictObject({
  pages_done: z.int().min(0),
  pages_total: z.int().nullable().describe('Null until the pages of every original are counted'),
});

const listOf = <Item extends z.ZodType>(item: Item) =>
  z.strictObject({ items: z.array(item), next_cursor: z.string().nullable() });

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
  filename: z.string().nullable().describe('As sent, for display'),
  media_type: z.enum(['application/pdf', 'image/png', 'image/jpeg']),
  bytes,
  sha256: z.string(),
  path,
  page_count: z.int().nullable().describe('Null until it was inspected'),
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
  dpi: z.number().nullable().describe('Used for it; null for an image'),
  reduced: z.string().nullable().describe('Why it has less than the dpi asked for'),
  engine: z.string().nullable().describe('What drew it'),
  note: z.string().nullable().describe('Why another engine than the first drew the page'),
  error: failure.nullable(),
  url: url.nullable(),
});

export const upload = uploadSummary.extend({
  originals: z.array(original),
  pages: z.array(page).max(200).describe('The first 200 pages'),
  pages_next_cursor: z.string().nullable().describe('The `cursor` of `GET /uploads/{id}/pages` for the other pages'),
});
export const listedUpload = uploadSummary.extend({
  filenames: z.array(z.string().nullable()).describe('Of its originals, in order'),
});
export const uploadList = listOf(listedUpload);
export const uploadStatus = z.strictObject({
  id: z.uuid(),
  status: z.enum(UPLOAD_STATUSES),
  done: z.boolean().describe('Whether it has ended: as completed, failed or cancelled'),
  progress,
  error: failure.nullable(),
});
/** The data of a webhook about an upload. */
export const uploadNotice = uploadStatus.extend({
  finished_at: time.nullable(),
  counts: z.strictObject({ originals: z.int(), pages_completed: z.int(), pages_failed: z.int() }),
  url: z.string().describe('Where its document is, below this service'),
});
export const uploadPages = listOf(page).extend({ id: z.uuid(), status: z.enum(UPLOAD_STATUSES) });
export const uploadOriginals = z.strictObject({ id: z.uuid(), items: z.array(original) });

const json = z.record(z.string(), z.unknown());

export const job = z.strictObject({
  job_id: z.string(),
  type: z.string(),
  status: z.enum(JOB_STATUSES),
  priority: z.enum(PRIORITIES),
  position_in_queue: z
    .int()
    .nullable()
    .describe('While it is ready or blocked, in answers about it alone; 1000 means 1000 or more'),
  payload: json,
  resource_requirements: z.strictObject({ cpu_units: z.int(), memory_mb: z.int() }),
  depends_on: z.array(z.string()),
  run_on: z.enum(RUN_ON),
  retry_config: z.strictObject({
    max_attempts: z.int(),
    backoff_multiplier: z.number(),
    initial_delay_seconds: z.number(),
  }),
  timeout_seconds: z.int(),
  run_at: time.nullable(),
  notify_url: z.string().nullable(),
  concurrency_key: z.string().nullable(),
  upload_id: z.uuid().nullable(),
  parent_id: z.string().nullable(),
  progress: z.strictObject({ done: z.number(), total: z.number().nullable() }).nullable(),
  result: json.nullable(),
  error: failure.nullable(),
  created_at: time,
  started_at: time.nullable(),
  finished_at: time.nullable(),
});

export const attempt = z.strictObject({
  attempt: z.int(),
  status: z.enum(['running', 'completed', 'failed', 'cancelled', 'returned', 'snoozed']),
  converter: z.string(),
  cpu_units: z.int(),
  memory_mb: z.int(),
  peak_memory_mb: z.int().nullable(),
  started_at: time,
  finished_at: time.nullable(),
  error: failure.nullable(),
});

export const jobDetail = job.extend({ attempts: z.array(attempt).max(200).describe('The latest 200') });
export const listedJob = job.extend({
  payload: json.nullable().describe('Null if it has more than 4 KB'),
  result: json.nullable().describe('Null if there is none, or if it has more than 4 KB'),
  truncated: z
    .literal(true)
    .optional()
    .describe(
      'Set if the payload or result has more than 4 KB, or there are more than 50 `depends_on`; `GET /jobs/{id}` has all',
    ),
});
/** The data of a webhook about a job. */
export const jobNotice = listedJob.omit({ depends_on: true }).extend({
  counts: z.strictObject({ attempts: z.int(), depends_on: z.int() }),
  url: z.string().describe('Where its document is, below this service'),
});
export const jobList = listOf(listedJob);
export const jobBatch = z.strictObject({ items: z.array(job) });
export const bulkOperation = z.strictObject({
  id: z.uuid(),
  action: z.enum(BULK_ACTIONS),
  status: z.enum(['running', 'completed']),
  count: z.int().describe('Jobs that matched when it began'),
  done: z.int().describe('Jobs changed so far'),
  skipped: z
    .int()
    .describe('Jobs left as they are: their prerequisites do not let them run, or they changed meanwhile'),
  created_at: time,
  finished_at: time.nullable(),
});

/** A job among those that it waits for, that wait for it, that it was split from or into, and theirs. */
const relative = job
  .pick({ job_id: true, type: true, status: true, parent_id: true })
  .extend({ depends_on: z.array(z.string()).describe('Of its prerequisites, those among these') });
export const jobGraph = z.strictObject({
  items: z.array(relative).describe('The job itself first'),
  complete: z.boolean().describe('Whether these are all'),
});

export const logLine = z.strictObject({
  id: z.int(),
  at: time,
  attempt: z.int().nullable(),
  level: z.enum(LOG_LEVELS),
  message: z.string(),
  data: json.nullable(),
});
export const logList = listOf(logLine);

export const webhook = z.strictObject({
  id: z.uuid(),
  url: z.string(),
  type: z.string(),
  status: z.enum(['pending', 'delivered', 'failed']),
  created_at: time,
  finished_at: time.nullable(),
  attempts: z.array(
    z.strictObject({
      attempt: z.int(),
      started_at: time,
      duration_ms: z.int(),
      status_code: z.int().nullable(),
      error: z.string().nullable(),
    }),
  ),
});
export const webhookList = listOf(webhook);

export const jobType = z.strictObject({
  type: z.string(),
  payload: json,
  resource_requirements: z.strictObject({ cpu_units: z.int(), memory_mb: z.int() }),
  trusted: z.boolean(),
  internal: z.boolean(),
  paused: z.boolean().describe('A paused type accepts jobs and starts none'),
  paused_at: time.nullable(),
  concurrency: z.strictObject({
    per_type: z.int().nullable().describe('How many jobs of the type run at a time; null for no limit'),
    per_key: z
      .int()
      .nullable()
      .describe('How many jobs of the same `concurrency_key` run at a time; null for no limit'),
  }),
  rate: z
    .strictObject({ limit: z.int(), per_seconds: z.int() })
    .nullable()
    .describe('`limit` jobs start at once, and `limit` per `per_seconds` in the long run; null for no limit'),
});
export const jobTypeList = listOf(jobType);

export const schedule = z.strictObject({
  name: z.string(),
  cron: z.string(),
  timezone: z.string(),
  paused: z.boolean(),
  overlap: z.enum(OVERLAPS),
  missed: z.enum(MISSED),
  job: json,
  next_run_at: time.nullable().describe('Null while it is paused'),
  last_run_at: time.nullable().describe('The time for which it ran last'),
  last_error: failure.nullable().describe('The reason that the last run was not submitted; null when it was'),
  created_at: time,
  updated_at: time,
});
export const scheduleList = listOf(schedule);

/** What the stream sends for each change; of a page, its place too. */
export const event = z.strictObject({
  id: z.int(),
  kind: z.enum(['job', 'page', 'upload']),
  job_id: z.string().nullable(),
  upload_id: z.uuid().nullable(),
  type: z.string().nullable(),
  status: z.string().nullable(),
  attempt: z.int().nullable(),
  progress: z.record(z.string(), z.number().nullable()).nullable(),
  original: z.int().optional(),
  page: z.int().optional(),
  at: time,
});

const resources = z.strictObject({ cpu_units: z.int(), memory_mb: z.int() });

export const system = z.strictObject({
  converters: z.array(
    z.strictObject({
      id: z.uuid(),
      name: z.string(),
      capacity: resources,
      reserved: resources,
      running: z.int(),
      isolation: z
        .strictObject({
          level: z.string().describe('`namespaces`, `process` or `memory`, strongest first'),
          layers: z.array(z.string()),
        })
        .nullable()
        .describe('The layers between sandboxes and the machine of the converter'),
      started_at: time,
      heartbeat_at: time,
    }),
  ),
  queues: z.array(
    resources.extend({
      depth: z.int().describe('Ready jobs, as of at most a second ago; 1000 means 1000 or more'),
      oldest_age_seconds: z.number(),
    }),
  ),
  throughput: z.array(
    z.strictObject({ minute: time, completed: z.int(), failed: z.int(), peak_memory_mb: z.int().nullable() }),
  ),
  deaths: z
    .array(
      z.strictObject({
        job_id: z.string(),
        type: z.string(),
        upload_id: z.uuid().nullable(),
        attempt: z.int(),
        converter: z.string(),
        memory_mb: z.int(),
        peak_memory_mb: z.int().nullable(),
        at: time,
        error: failure,
      }),
    )
    .describe(
      'Attempts of the last day that were ended for their memory or their time, or by a crash; the latest first',
    ),
});

export const health = z.strictObject({
  status: z.literal('ok'),
  checks: z.record(z.string(), z.literal('ok')).optional(),
});

/** An error, as RFC 9457 writes it. */
export const problem = z.strictObject({
  type: z.literal('about:blank'),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
  request_id: z.string(),
  cycle: z.array(z.string()).optional().describe('Of a `dependency_cycle`: the first job again at the end'),
  scope: z.string().optional().describe('Of `forbidden`: the scope that is missing'),
  retry_after_seconds: z.int().optional().describe('Of `too_many_requests`: as `Retry-After`'),
});
