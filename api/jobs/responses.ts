import { z } from 'zod';
import { BULK_ACTIONS, JOB_STATUSES, LOG_LEVELS, MISSED, OVERLAPS, PRIORITIES, RUN_ON } from '../../db/schema.ts';
import { failure, time } from '../http/fields.ts';
import { listOf } from '../http/pagination.ts';

/** The schemas of the documents that documents.ts makes. */

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
