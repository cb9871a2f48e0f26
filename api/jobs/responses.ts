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
    .describe('The position while the job is ready or blocked, in answers about one job; 1000 means 1000 or more'),
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
  payload: json.nullable().describe('Null if larger than 4 KB'),
  result: json.nullable().describe('Null if there is none, or if larger than 4 KB'),
  truncated: z
    .literal(true)
    .optional()
    .describe(
      'True if the payload or result is larger than 4 KB, or if there are more than 50 `depends_on`; `GET /jobs/{id}` has everything',
    ),
});
/** The data of a webhook about a job. */
export const jobNotice = listedJob.omit({ depends_on: true }).extend({
  counts: z.strictObject({ attempts: z.int(), depends_on: z.int() }),
  url: z.string().describe('The URL path of the job'),
});
export const jobList = listOf(listedJob);
export const jobBatch = z.strictObject({ items: z.array(job) });
export const bulkOperation = z.strictObject({
  id: z.uuid(),
  action: z.enum(BULK_ACTIONS),
  status: z.enum(['running', 'completed']),
  count: z.int().describe('Jobs that matched at the start'),
  done: z.int().describe('Jobs changed so far'),
  skipped: z
    .int()
    .describe('Jobs left unchanged: their dependencies do not let them run, or they changed in the meantime'),
  created_at: time,
  finished_at: time.nullable(),
});

/** A job that is related to another by dependencies or by a split, directly or through other jobs. */
const relative = job
  .pick({ job_id: true, type: true, status: true, parent_id: true })
  .extend({ depends_on: z.array(z.string()).describe('Its dependencies among these jobs') });
export const jobGraph = z.strictObject({
  items: z.array(relative).describe('The job first, then its related jobs, nearest first'),
  complete: z.boolean().describe('True if no related job is missing'),
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
    per_type: z.int().nullable().describe('The maximum of running jobs of the type; null for no limit'),
    per_key: z
      .int()
      .nullable()
      .describe('The maximum of running jobs with the same `concurrency_key`; null for no limit'),
  }),
  rate: z
    .strictObject({ limit: z.int(), per_seconds: z.int() })
    .nullable()
    .describe(
      'At most `limit` jobs start per `per_seconds` on average, in bursts of at most `limit`; null for no limit',
    ),
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
  next_run_at: time.nullable().describe('Null while paused'),
  last_run_at: time.nullable().describe('The scheduled time of the last run'),
  last_error: failure.nullable().describe('The reason that the last run was not submitted; null if it was submitted'),
  created_at: time,
  updated_at: time,
});
export const scheduleList = listOf(schedule);
