import { type SQL, sql } from 'drizzle-orm';
import {
  bigint,
  bigserial,
  boolean,
  check,
  customType,
  doublePrecision,
  index,
  integer,
  json,
  jsonb,
  pgTable,
  primaryKey,
  real,
  text,
  timestamp,
  unique,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core';
import type { ErrorCode, PublicError } from '../runtime/errors.ts';

/* ---- Values ---- */

/** The last three are ends. */
export const UPLOAD_STATUSES = ['queued', 'processing', 'completed', 'failed', 'cancelled'] as const;
export type UploadStatus = (typeof UPLOAD_STATUSES)[number];

export const OPEN_STATUSES = ['scheduled', 'blocked', 'ready', 'running', 'retrying'] as const;
export const ENDED = ['completed', 'failed', 'cancelled'] as const;
export const JOB_STATUSES = [...OPEN_STATUSES, ...ENDED] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];

/** The outcome of a prerequisite: `deleted` if it was deleted before its end. */
export const OUTCOMES = [...ENDED, 'deleted'] as const;
export type DependencyOutcome = (typeof OUTCOMES)[number];

/** A dependant runs if all its prerequisites have completed, if one has not, or in both cases. */
export const RUN_ON = ['success', 'failure', 'always'] as const;
export type RunOn = (typeof RUN_ON)[number];

export const BULK_ACTIONS = ['retry', 'cancel', 'delete'] as const;
export type BulkAction = (typeof BULK_ACTIONS)[number];

const WAITING = ['scheduled', 'blocked', 'ready', 'retrying'] as const satisfies JobStatus[];

export const PRIORITIES = ['critical', 'high', 'normal', 'low'] as const;
export type Priority = (typeof PRIORITIES)[number];

export const LOG_LEVELS = ['info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** First and last page of a range, both included, counted from 1. */
export type PageRange = [from: number, to: number];

/** The progress of a running job, in units of the task. The total is null if the task does not know it. */
export interface Progress {
  done: number;
  total: number | null;
}

const transactionId = customType<{ data: string }>({ dataType: () => 'xid8' });
const time = (name: string) => timestamp(name, { withTimezone: true });
const createdAt = () => time('created_at').notNull().defaultNow();
const oneOf = (column: string, values: readonly string[]): SQL =>
  sql.raw(`${column} in (${values.map((value) => `'${value}'`).join(', ')})`);

/** True for a waiting job. The text equals the condition of the index, so that Postgres uses it. */
export const isWaiting = oneOf('jobs.status', WAITING);

/* ---- Uploads, originals, pages ---- */

export const uploads = pgTable(
  'uploads',
  {
    id: uuid('id').primaryKey(),
    status: text('status').$type<UploadStatus>().notNull().default('queued'),
    priority: text('priority').$type<Priority>().notNull(),
    dpi: integer('dpi').notNull(),
    /** The selected pages as the client wrote them, such as `1-3,7`; null for all. */
    pageSelection: text('page_selection'),
    /** The first engine for PDF pages; null leaves the choice to the converter. */
    engine: text('engine').$type<'pdfium' | 'pdf-to-img'>(),
    /** Opens encrypted PDFs. Only the sandbox reads it, and the end of the upload clears it. */
    password: text('password'),
    pagesDone: integer('pages_done').notNull().default(0),
    /** Null until the page count of every original is known. */
    pagesTotal: integer('pages_total'),
    error: jsonb('error').$type<PublicError>(),
    createdAt: createdAt(),
    finishedAt: time('finished_at'),
    expiresAt: time('expires_at'),
    /** The URL of the webhook at its end. */
    notifyUrl: text('notify_url'),
    /** The name of the client's key; null without authentication. */
    owner: text('owner'),
  },
  (table) => [
    index('uploads_status').on(table.status, table.id),
    index('uploads_owner').on(table.owner, table.id).where(sql`owner is not null`),
    index('uploads_owner_status').on(table.owner, table.status, table.id).where(sql`owner is not null`),
    index('uploads_expires').on(table.expiresAt).where(sql`expires_at is not null`),
    index('uploads_finished').on(table.finishedAt).where(sql`finished_at is not null`),
    check('uploads_status_known', oneOf('status', UPLOAD_STATUSES)),
    check(
      'uploads_end',
      sql`(status in ('completed', 'failed', 'cancelled')) = (finished_at is not null) and (finished_at is null or password is null)`,
    ),
  ],
);

export const originals = pgTable(
  'originals',
  {
    uploadId: uuid('upload_id')
      .notNull()
      .references(() => uploads.id, { onDelete: 'cascade' }),
    original: integer('original').notNull(),
    /** As the client sent it, for display only; null without a name. */
    filename: text('filename'),
    mediaType: text('media_type').$type<'application/pdf' | 'image/png' | 'image/jpeg'>().notNull(),
    bytes: bigint('bytes', { mode: 'number' }).notNull(),
    sha256: text('sha256').notNull(),
    path: text('path').notNull(),
    pageCount: integer('page_count'),
    /** The selected pages as ascending ranges; null until the file was inspected. */
    selected: jsonb('selected').$type<PageRange[]>(),
    error: jsonb('error').$type<PublicError>(),
  },
  (table) => [
    primaryKey({ columns: [table.uploadId, table.original] }),
    // Finds parts of a name of at least three characters.
    index('originals_filename').using('gin', table.filename.op('gin_trgm_ops')),
  ],
);

export const pages = pgTable(
  'pages',
  {
    uploadId: uuid('upload_id')
      .notNull()
      .references(() => uploads.id, { onDelete: 'cascade' }),
    original: integer('original').notNull(),
    page: integer('page').notNull(),
    status: text('status').$type<'completed' | 'failed'>().notNull(),
    path: text('path'),
    width: integer('width'),
    height: integer('height'),
    bytes: integer('bytes'),
    sha256: text('sha256'),
    /** Effective dots per inch; null for images. */
    dpi: real('dpi'),
    /** The reason for less than the requested dpi. */
    reduced: text('reduced'),
    engine: text('engine'),
    /** The reason why another engine than the first rendered the page. */
    note: text('note'),
    error: jsonb('error').$type<PublicError>(),
  },
  (table) => [
    primaryKey({ columns: [table.uploadId, table.original, table.page] }),
    check('pages_size', sql`page >= 1 and (width is null or (width >= 1 and height >= 1 and bytes >= 1))`),
    check(
      'pages_outcome',
      sql`case status when 'completed' then path is not null and width < 3500 and height < 3500 and error is null
        when 'failed' then path is null and error is not null else false end`,
    ),
  ],
);

/* ---- Jobs ---- */

export const jobs = pgTable(
  'jobs',
  {
    id: text('id').primaryKey(),
    /** The pg-boss job of a ready job; other jobs have none. */
    queueId: uuid('queue_id'),
    type: text('type').notNull(),
    priority: text('priority').$type<Priority>().notNull(),
    /** The time of its submission, for its turn: a child counts as later than its parent. See jobs/plan-claim.ts. */
    arrivedAt: time('arrived_at').notNull(),
    payload: jsonb('payload').$type<Record<string, unknown>>().notNull(),
    /** The length of the payload's JSON; 0 for jobs of earlier versions. */
    payloadBytes: integer('payload_bytes').notNull().default(0),
    cpuUnits: integer('cpu_units').notNull(),
    memoryMb: integer('memory_mb').notNull(),
    status: text('status').$type<JobStatus>().notNull(),
    /** The number of executions so far. */
    attempt: integer('attempt').notNull().default(0),
    /** The failed attempts since the submission or the last manual retry. Returned attempts do not count. */
    failures: integer('failures').notNull().default(0),
    maxAttempts: integer('max_attempts').notNull(),
    initialDelaySeconds: real('initial_delay_seconds').notNull(),
    backoffMultiplier: real('backoff_multiplier').notNull(),
    timeoutSeconds: integer('timeout_seconds').notNull(),
    /** The earliest start that the client requested. */
    runAt: time('run_at'),
    /** The time when a scheduled or retrying job becomes ready. */
    dueAt: time('due_at'),
    /** The time when it last became ready. */
    readyAt: time('ready_at'),
    converterId: uuid('converter_id'),
    uploadId: uuid('upload_id').references(() => uploads.id, { onDelete: 'cascade' }),
    original: integer('original'),
    parentId: text('parent_id'),
    /** The outcomes of its prerequisites that make it run. */
    runOn: text('run_on').$type<RunOn>().notNull().default('success'),
    /** The number of its edges in `job_dependencies` without an outcome. */
    pendingDependencies: integer('pending_dependencies').notNull().default(0),
    /** The number of children that have not ended. */
    pendingChildren: integer('pending_children').notNull().default(0),
    /** The name of the client's key; null without authentication. Owners take turns: see jobs/fairness.ts. */
    owner: text('owner'),
    /** Jobs of a type with the same key share the limit `per_key` of the type. */
    concurrencyKey: text('concurrency_key'),
    /** True while a ready job waits for the end of another job of its key. Triggers set it (`admit_jobs`). */
    throttled: boolean('throttled').notNull().default(false),
    /** The hash of a request that chose the job's id. A request with the same hash is a repetition. */
    fingerprint: text('fingerprint'),
    progress: jsonb('progress').$type<Progress>(),
    result: jsonb('result').$type<Record<string, unknown>>(),
    error: jsonb('error').$type<PublicError>(),
    createdAt: createdAt(),
    startedAt: time('started_at'),
    finishedAt: time('finished_at'),
    /** The URL of the webhook at its end. */
    notifyUrl: text('notify_url'),
    /** The W3C trace context of the request; null when nothing is traced. */
    traceparent: text('traceparent'),
  },
  (table) => [
    index('jobs_ready')
      .on(
        table.throttled,
        table.priority,
        sql`coalesce(owner, '')`,
        table.type,
        table.cpuUnits,
        table.memoryMb,
        table.arrivedAt,
        table.id,
      )
      .where(sql`status = 'ready'`),
    index('jobs_waiting')
      .on(sql`coalesce(owner, '')`, table.status, table.cpuUnits, table.memoryMb, table.payloadBytes)
      .where(oneOf('status', WAITING)),
    index('jobs_key_open')
      .on(table.type, table.concurrencyKey)
      .where(sql`concurrency_key is not null and not throttled and status in ('ready', 'running')`),
    index('jobs_key_throttled')
      .on(table.type, table.concurrencyKey, table.priority, table.arrivedAt, table.id)
      .where(sql`throttled`),
    index('jobs_due').on(table.priority, table.dueAt).where(sql`status in ('scheduled', 'retrying')`),
    index('jobs_running').on(table.converterId).where(sql`status = 'running'`),
    uniqueIndex('jobs_queue').on(table.queueId).where(sql`queue_id is not null`),
    index('jobs_newest').on(table.status, table.priority, table.createdAt, table.id),
    index('jobs_owner_newest')
      .on(table.owner, table.status, table.priority, table.createdAt, table.id)
      .where(sql`owner is not null`),
    index('jobs_owner_type')
      .on(table.owner, table.type, table.status, table.priority, table.createdAt, table.id)
      .where(sql`owner is not null`),
    index('jobs_finished').on(table.finishedAt).where(sql`finished_at is not null and upload_id is null`),
    index('jobs_type').on(table.type, table.status, table.priority, table.createdAt, table.id),
    index('jobs_upload').on(table.uploadId).where(sql`upload_id is not null`),
    index('jobs_parent').on(table.parentId).where(sql`parent_id is not null`),
    check('jobs_status_known', oneOf('status', JOB_STATUSES)),
    check('jobs_run_on_known', oneOf('run_on', RUN_ON)),
    check('jobs_queue_id', sql`(queue_id is not null) = (status = 'ready')`),
    check('jobs_converter', sql`(converter_id is not null) = (status = 'running' and pending_children = 0)`),
    check('jobs_throttled', sql`not throttled or (status = 'ready' and concurrency_key is not null)`),
    check('jobs_ready_at', sql`status <> 'ready' or ready_at is not null`),
    check('jobs_end', sql`(status in ('completed', 'failed', 'cancelled')) = (finished_at is not null)`),
    check('jobs_due_time', sql`(status in ('scheduled', 'retrying')) = (due_at is not null)`),
    check('jobs_shape', sql`cpu_units between 0 and 1024 and memory_mb between 256 and 16384`),
    check(
      'jobs_retry_policy',
      sql`attempt >= 0 and failures >= 0 and max_attempts >= 1 and timeout_seconds >= 1 and payload_bytes >= 0
        and initial_delay_seconds between 0 and 3600 and backoff_multiplier between 1 and 100`,
    ),
    check(
      'jobs_pending',
      sql`pending_dependencies >= 0 and pending_children >= 0 and (status <> 'blocked' or pending_dependencies > 0)
        and (pending_dependencies = 0 or status in ('blocked', 'failed', 'cancelled'))`,
    ),
  ],
);

/** The limits of each job type, as its task defines them, and how far they are used. See jobs/register-types.ts. */
export const jobTypes = pgTable(
  'job_types',
  {
    type: text('type').primaryKey(),
    /** Jobs of a paused type wait. */
    pausedAt: time('paused_at'),
    perType: integer('per_type'),
    perKey: integer('per_key'),
    rateLimit: integer('rate_limit'),
    rateSeconds: integer('rate_seconds'),
    /** True while waiting jobs are adapted to a new `per_key`, in batches. No job of the type starts meanwhile. */
    isRelimited: boolean('is_relimited').notNull().default(false),
    /** The last change of the limits. Jobs that ran before may exceed them. */
    limitedAt: time('limited_at').notNull().defaultNow(),
    /** The token bucket of the rate limit, at `refilledAt`. */
    tokens: doublePrecision('tokens').notNull().default(0),
    refilledAt: time('refilled_at').notNull().defaultNow(),
  },
  () => [
    check('job_types_limits', sql`per_type >= 1 and per_key >= 1`),
    check(
      'job_types_rate',
      sql`(rate_limit is null) = (rate_seconds is null) and rate_limit >= 1 and rate_seconds >= 1 and tokens >= 0`,
    ),
  ],
);

/**
 * The edges of an acyclic graph: a prerequisite is stored before its dependant, or in the same batch. An edge survives the
 * deletion of its prerequisite, so that a deletion never starts a dependant.
 */
export const jobDependencies = pgTable(
  'job_dependencies',
  {
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
    dependsOn: text('depends_on').notNull(),
    /** Null until the prerequisite has ended; a trigger sets it. It no longer changes once the dependant has started. */
    outcome: text('outcome').$type<DependencyOutcome>(),
  },
  (table) => [
    primaryKey({ columns: [table.jobId, table.dependsOn] }),
    index('job_dependencies_dependants').on(table.dependsOn, table.jobId),
    check('job_dependencies_outcome_known', sql`outcome is null or ${oneOf('outcome', OUTCOMES)}`),
  ],
);

/**
 * Jobs that ended, run again or were deleted, and whose dependants must be updated. Triggers on `jobs` insert the rows, and
 * jobs/dependants.ts consumes them.
 */
export const pendingOutcomes = pgTable(
  'pending_outcomes',
  {
    jobId: text('job_id').primaryKey(),
    /** Null when the job runs again. */
    outcome: text('outcome').$type<DependencyOutcome>(),
    dueAt: time('due_at').notNull().default(sql`clock_timestamp()`),
  },
  (table) => [index('pending_outcomes_due').on(table.dueAt)],
);

/** Operations that retry, cancel or delete all jobs that matched a filter at one moment, in batches by ascending id. */
export const bulkOperations = pgTable(
  'bulk_operations',
  {
    id: uuid('id').primaryKey(),
    /** The name of the client's key; null without authentication. */
    owner: text('owner'),
    action: text('action').$type<BulkAction>().notNull(),
    /** The filter of `whereJobs`, with times as text. */
    filter: jsonb('filter').$type<Record<string, string>>().notNull(),
    status: text('status').$type<'running' | 'completed'>().notNull().default('running'),
    /** The jobs that matched at its start. */
    count: integer('count').notNull(),
    /** The jobs that were changed. */
    done: integer('done').notNull().default(0),
    /** The jobs that could not be changed, or that had changed since. */
    skipped: integer('skipped').notNull().default(0),
    /** The id of the last job that was read. */
    cursor: text('cursor').notNull().default(''),
    /** The moment at which jobs had to match. */
    createdAt: createdAt(),
    finishedAt: time('finished_at'),
  },
  (table) => [
    uniqueIndex('bulk_operations_running')
      .on(sql`coalesce(owner, '')`, table.action, table.filter)
      .where(sql`status = 'running'`),
    index('bulk_operations_finished').on(table.finishedAt).where(sql`finished_at is not null`),
    check('bulk_operations_end', sql`(status = 'running') = (finished_at is null)`),
  ],
);

/** The error codes of attempts whose sandbox or converter was killed or crashed. */
const ABNORMAL_CODES: ErrorCode[] = ['out_of_memory', 'timeout', 'converter_lost', 'sandbox_violation', 'internal'];
/** True for an attempt that ended abnormally. The text equals the condition of the index, so that Postgres uses it. */
export const isAbnormalEnd = sql`job_attempts.status = 'failed' and ${oneOf("job_attempts.error->>'code'", ABNORMAL_CODES)}`;

export const jobAttempts = pgTable(
  'job_attempts',
  {
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
    attempt: integer('attempt').notNull(),
    status: text('status')
      .$type<'running' | 'completed' | 'failed' | 'cancelled' | 'returned' | 'snoozed'>()
      .notNull()
      .default('running'),
    converterId: uuid('converter_id').notNull(),
    converter: text('converter').notNull(),
    cpuUnits: integer('cpu_units').notNull(),
    memoryMb: integer('memory_mb').notNull(),
    peakMemoryMb: integer('peak_memory_mb'),
    error: jsonb('error').$type<PublicError>(),
    startedAt: time('started_at').notNull().defaultNow(),
    /** The end of its last wait for the store, which does not count against its timeout. */
    waitedAt: time('waited_at'),
    finishedAt: time('finished_at'),
  },
  (table) => [
    primaryKey({ columns: [table.jobId, table.attempt] }),
    index('job_attempts_died').on(table.finishedAt).where(isAbnormalEnd),
  ],
);

/* ---- Events and webhooks ---- */

/**
 * The changes of jobs, uploads and pages, written by triggers, and the lines that tasks log, in the order of (xact, id).
 * `xact` is the id of the writing transaction. Rows below the oldest running transaction are complete, while serial ids
 * alone commit out of order.
 */
export const events = pgTable(
  'events',
  {
    id: bigserial('id', { mode: 'number' }).primaryKey(),
    xact: transactionId('xact').notNull().default(sql`pg_current_xact_id()`),
    /**
     * The oldest transaction that ran when the event was written. No event with a higher id belongs to an older one, so a
     * follower whose last event was deleted continues here without a gap.
     */
    oldestXact: transactionId('oldest_xact').notNull().default(sql`pg_snapshot_xmin(pg_current_snapshot())`),
    at: time('at').notNull().default(sql`clock_timestamp()`),
    /** The owner of the job or upload, who may follow the event; null for log lines, which belong to their job. */
    owner: text('owner'),
    kind: text('kind').$type<'job' | 'page' | 'upload' | 'log'>().notNull(),
    jobId: text('job_id'),
    uploadId: uuid('upload_id'),
    type: text('type'),
    status: text('status'),
    attempt: integer('attempt'),
    progress: jsonb('progress').$type<Record<string, number | null>>(),
    level: text('level').$type<LogLevel>().notNull().default('info'),
    message: text('message'),
    /** The code and message of an error, the original and page, or the data that a task logged. */
    data: jsonb('data').$type<Record<string, unknown>>(),
  },
  (table) => [
    index('events_order').on(table.xact, table.id),
    index('events_job').on(table.jobId, table.id).where(sql`job_id is not null`),
    index('events_owner').on(table.owner, table.xact, table.id).where(sql`owner is not null`),
    index('events_upload').on(table.uploadId, table.xact, table.id).where(sql`upload_id is not null`),
  ],
);

/** Notifications of clients about the end of an upload or a job. */
export const webhooks = pgTable(
  'webhooks',
  {
    /** The `webhook-id` header for the receiver. */
    id: uuid('id').primaryKey(),
    uploadId: uuid('upload_id').references(() => uploads.id, { onDelete: 'cascade' }),
    jobId: text('job_id').references(() => jobs.id, { onDelete: 'cascade' }),
    url: text('url').notNull(),
    /** Such as `upload.completed`. */
    type: text('type').notNull(),
    /** The host of the URL; empty in rows of earlier versions. */
    host: text('host').notNull().default(''),
    status: text('status').$type<'pending' | 'delivered' | 'failed'>().notNull().default('pending'),
    createdAt: createdAt(),
    /** The time of the next delivery of a pending webhook. */
    dueAt: time('due_at').notNull().defaultNow(),
    /** The time when other API processes may take over a delivery. */
    lockedUntil: time('locked_until'),
    finishedAt: time('finished_at'),
  },
  (table) => [
    index('webhooks_due').on(table.host, table.dueAt).where(sql`status = 'pending'`),
    index('webhooks_locked').on(table.host, table.lockedUntil).where(sql`locked_until is not null`),
    index('webhooks_upload').on(table.uploadId).where(sql`upload_id is not null`),
    index('webhooks_job').on(table.jobId).where(sql`job_id is not null`),
  ],
);

export const webhookAttempts = pgTable(
  'webhook_attempts',
  {
    webhookId: uuid('webhook_id')
      .notNull()
      .references(() => webhooks.id, { onDelete: 'cascade' }),
    attempt: integer('attempt').notNull(),
    startedAt: time('started_at').notNull(),
    durationMs: integer('duration_ms').notNull(),
    /** The status of the receiver's response; null without one. */
    statusCode: integer('status_code'),
    /** The reason for a failed delivery; null for a successful one. */
    error: text('error'),
  },
  (table) => [primaryKey({ columns: [table.webhookId, table.attempt] })],
);

/** The last behaviour of each receiver, for all API processes. db/webhooks.ts chooses the next webhooks by it. */
export const webhookHosts = pgTable(
  'webhook_hosts',
  {
    host: text('host').primaryKey(),
    /** True if its last response was slower than that of a prompt receiver. */
    slow: boolean('slow').notNull(),
    /** Consecutive deliveries without a response. */
    failures: integer('failures').notNull(),
    /** The end of the first of them. */
    failingSince: time('failing_since'),
    /** Nothing is sent before this time. */
    retryAt: time('retry_at'),
    changedAt: time('changed_at').notNull().defaultNow(),
  },
  (table) => [index('webhook_hosts_changed').on(table.changedAt)],
);

/* ---- Schedules ---- */

/** The behaviour of a run while the previous job has not ended. */
export const OVERLAPS = ['allow', 'skip'] as const;
/** The behaviour after an outage that missed runs. */
export const MISSED = ['once', 'skip'] as const;

/** The job of a schedule: `request` as the client wrote it, and `job` as each run submits it. */
export interface ScheduledJob {
  request: Record<string, unknown>;
  job: {
    type: string;
    priority: Priority;
    payload: Record<string, unknown>;
    shape: { cpuUnits: number; memoryMb: number };
    timeoutSeconds?: number | undefined;
    maxAttempts?: number | undefined;
    initialDelaySeconds?: number | undefined;
    backoffMultiplier?: number | undefined;
    notifyUrl?: string | null | undefined;
  };
}

/** Recurring jobs. See jobs/schedules.ts. */
export const schedules = pgTable(
  'schedules',
  {
    /** Part of the job ids of its runs, so that they differ from those of a deleted schedule of the same name. */
    id: uuid('id').primaryKey(),
    /** The name of the client's key; null without authentication. */
    owner: text('owner'),
    name: text('name').notNull(),
    cron: text('cron').notNull(),
    timezone: text('timezone').notNull(),
    paused: boolean('paused').notNull().default(false),
    overlap: text('overlap').$type<(typeof OVERLAPS)[number]>().notNull().default('allow'),
    missed: text('missed').$type<(typeof MISSED)[number]>().notNull().default('once'),
    job: jsonb('job').$type<ScheduledJob>().notNull(),
    /** Null while it is paused, and when its expression or time zone is no longer valid. */
    nextRunAt: time('next_run_at'),
    /** The due time of the last submitted run, or the moment of a manual run. */
    lastRunAt: time('last_run_at'),
    lastJobId: text('last_job_id'),
    /** The reason why the last run was not submitted; null when it was. */
    lastError: jsonb('last_error').$type<PublicError>(),
    createdAt: createdAt(),
    updatedAt: time('updated_at').notNull().defaultNow(),
  },
  (table) => [
    unique('schedules_owner_name').on(table.owner, table.name).nullsNotDistinct(),
    index('schedules_name').on(table.name, table.id),
    index('schedules_due').on(table.nextRunAt).where(sql`next_run_at is not null`),
    check('schedules_paused', sql`not paused or next_run_at is null`),
    check('schedules_overlap_known', oneOf('overlap', OVERLAPS)),
    check('schedules_missed_known', oneOf('missed', MISSED)),
  ],
);

/* ---- Shared state of processes ---- */

/** The number of attempts that each converter ended in each minute, and their highest memory. */
export const throughput = pgTable(
  'throughput',
  {
    minute: time('minute').notNull(),
    converterId: uuid('converter_id').notNull(),
    completed: integer('completed').notNull(),
    failed: integer('failed').notNull(),
    peakMemoryMb: integer('peak_memory_mb'),
  },
  (table) => [primaryKey({ columns: [table.minute, table.converterId] })],
);

/** The first answer to each Idempotency-Key. Without an answer, the request is in progress until `lockedUntil`. */
export const idempotencyKeys = pgTable(
  'idempotency_keys',
  {
    owner: text('owner').notNull(),
    key: text('key').notNull(),
    lockedUntil: time('locked_until').notNull(),
    fingerprint: text('fingerprint'),
    answer: json('answer').$type<{ status: number; location: string | null; body: unknown }>(),
    createdAt: createdAt(),
  },
  (table) => [primaryKey({ columns: [table.owner, table.key] }), index('idempotency_keys_age').on(table.createdAt)],
);

/** The job of each `unique` key. Until the key expires, requests with it get this job instead of a new one. */
export const uniqueKeys = pgTable(
  'unique_keys',
  {
    /** Empty for jobs without an owner. */
    owner: text('owner').notNull(),
    type: text('type').notNull(),
    key: text('key').notNull(),
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
    expiresAt: time('expires_at').notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.owner, table.type, table.key] }),
    index('unique_keys_job').on(table.jobId),
    index('unique_keys_expires').on(table.expiresAt),
  ],
);

/** The latest archive job of each upload and owner; see conversion/archives.ts. */
export const uploadArchives = pgTable(
  'upload_archives',
  {
    uploadId: uuid('upload_id')
      .notNull()
      .references(() => uploads.id, { onDelete: 'cascade' }),
    /** Empty for jobs without an owner. */
    owner: text('owner').notNull(),
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
  },
  (table) => [primaryKey({ columns: [table.uploadId, table.owner] }), index('upload_archives_job').on(table.jobId)],
);

/** The number of turns that each owner has taken; see jobs/fairness.ts. */
export const fairShares = pgTable(
  'fair_shares',
  {
    /** Empty for jobs without an owner. */
    owner: text('owner').primaryKey(),
    turns: bigint('turns', { mode: 'number' }).notNull(),
    usedAt: time('used_at').notNull().defaultNow(),
  },
  (table) => [index('fair_shares_turns').on(table.turns)],
);

export const converters = pgTable('converters', {
  id: uuid('id').primaryKey(),
  /** Host and process id, for display. */
  name: text('name').notNull(),
  cpuUnits: integer('cpu_units').notNull(),
  memoryMb: integer('memory_mb').notNull(),
  /** The isolation of its sandboxes from the machine. */
  isolation: jsonb('isolation').$type<{ level: string; layers: string[] }>(),
  status: text('status').$type<'live' | 'stopped' | 'lost'>().notNull().default('live'),
  /** The end of its lease to make room for a large job that has waited too long. */
  drainsUntil: time('drains_until'),
  /** The latest time when it has that room. */
  drainedAt: time('drained_at'),
  startedAt: time('started_at').notNull().defaultNow(),
  heartbeatAt: time('heartbeat_at').notNull().defaultNow(),
});

/** One row: the time since which the leader has watched the heartbeats without a gap. Only then are converters declared lost. */
export const maintenance = pgTable(
  'maintenance',
  {
    id: integer('id').primaryKey().default(1),
    lastSeenAt: time('last_seen_at').notNull(),
    watchedSince: time('watched_since').notNull(),
  },
  () => [check('maintenance_one_row', sql`id = 1`)],
);
