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

/** Life of an upload; the last three are ends. */
export const UPLOAD_STATUSES = ['queued', 'processing', 'completed', 'failed', 'cancelled'] as const;
export type UploadStatus = (typeof UPLOAD_STATUSES)[number];

/** Life of a job; the last three are ends. */
export const OPEN_STATUSES = ['scheduled', 'blocked', 'ready', 'running', 'retrying'] as const;
export const ENDED = ['completed', 'failed', 'cancelled'] as const;
export const JOB_STATUSES = [...OPEN_STATUSES, ...ENDED] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];

/** The outcome of a prerequisite; `deleted` before it had ended. */
export const OUTCOMES = [...ENDED, 'deleted'] as const;
export type DependencyOutcome = (typeof OUTCOMES)[number];

/** When a dependant runs: all its prerequisites have completed, one has not, or in either case. */
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

/** How far a running job has come, in units of the task's choice; a task that cannot know the total leaves it null. */
export interface Progress {
  done: number;
  total: number | null;
}

const transactionId = customType<{ data: string }>({ dataType: () => 'xid8' });
const time = (name: string) => timestamp(name, { withTimezone: true });
const createdAt = () => time('created_at').notNull().defaultNow();
const oneOf = (column: string, values: readonly string[]): SQL =>
  sql.raw(`${column} in (${values.map((value) => `'${value}'`).join(', ')})`);

/** That a row of `jobs` waits. Written as the index has it. */
export const isWaiting = oneOf('jobs.status', WAITING);

export const uploads = pgTable(
  'uploads',
  {
    id: uuid('id').primaryKey(),
    status: text('status').$type<UploadStatus>().notNull().default('queued'),
    priority: text('priority').$type<Priority>().notNull(),
    dpi: integer('dpi').notNull(),
    /** The selection as the client wrote it, such as `1-3,7`; null means every page. */
    pageSelection: text('page_selection'),
    /** The engine that the client wants to draw PDF pages first; null leaves the choice to the converter. */
    engine: text('engine').$type<'pdfium' | 'pdf-to-img'>(),
    /** For encrypted PDFs; reaches the sandbox alone and is cleared when the upload ends. */
    password: text('password'),
    pagesDone: integer('pages_done').notNull().default(0),
    /** Null until the page count of every original is known. */
    pagesTotal: integer('pages_total'),
    error: jsonb('error').$type<PublicError>(),
    createdAt: createdAt(),
    finishedAt: time('finished_at'),
    expiresAt: time('expires_at'),
    /** Where the client wants to hear of its end. */
    notifyUrl: text('notify_url'),
    /** Name of the client's key; null where none are configured. */
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
    /** As sent, for display only; null where the client gave none. */
    filename: text('filename'),
    mediaType: text('media_type').$type<'application/pdf' | 'image/png' | 'image/jpeg'>().notNull(),
    bytes: bigint('bytes', { mode: 'number' }).notNull(),
    sha256: text('sha256').notNull(),
    path: text('path').notNull(),
    pageCount: integer('page_count'),
    /** The pages asked for, as ascending ranges; null until the file was inspected. */
    selected: jsonb('selected').$type<PageRange[]>(),
    error: jsonb('error').$type<PublicError>(),
  },
  (table) => [
    primaryKey({ columns: [table.uploadId, table.original] }),
    // Finds a part of a name; needs three characters of it.
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
    /** Dots per inch actually used; null for images. */
    dpi: real('dpi'),
    /** Why the page has less than the dpi asked for. */
    reduced: text('reduced'),
    engine: text('engine'),
    /** Why another engine than the first drew the page. */
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

export const jobs = pgTable(
  'jobs',
  {
    id: text('id').primaryKey(),
    /** The pg-boss job that stands for this one; there is one if and only if the job is ready. */
    queueId: uuid('queue_id'),
    type: text('type').notNull(),
    priority: text('priority').$type<Priority>().notNull(),
    /** When it came into the queue, for its turn: a part of a job counts as later than its parent. See jobs/plan-claim.ts. */
    arrivedAt: time('arrived_at').notNull(),
    payload: jsonb('payload').$type<Record<string, unknown>>().notNull(),
    /** The length of the payload's JSON; 0 for jobs of older versions. */
    payloadBytes: integer('payload_bytes').notNull().default(0),
    cpuUnits: integer('cpu_units').notNull(),
    memoryMb: integer('memory_mb').notNull(),
    status: text('status').$type<JobStatus>().notNull(),
    /** Counts every execution; 0 before the first. */
    attempt: integer('attempt').notNull().default(0),
    /** Attempts spent since the job was submitted or last retried by hand; what was handed back is not spent. */
    failures: integer('failures').notNull().default(0),
    maxAttempts: integer('max_attempts').notNull(),
    initialDelaySeconds: real('initial_delay_seconds').notNull(),
    backoffMultiplier: real('backoff_multiplier').notNull(),
    timeoutSeconds: integer('timeout_seconds').notNull(),
    /** Not before this, as the client asked. */
    runAt: time('run_at'),
    /** When a job that is scheduled or waits out its backoff becomes ready. */
    dueAt: time('due_at'),
    /** When it last became ready. */
    readyAt: time('ready_at'),
    converterId: uuid('converter_id'),
    uploadId: uuid('upload_id').references(() => uploads.id, { onDelete: 'cascade' }),
    original: integer('original'),
    parentId: text('parent_id'),
    /** Says which outcomes of its prerequisites make it run. */
    runOn: text('run_on').$type<RunOn>().notNull().default('success'),
    /** Prerequisites that have not ended, as its edges in `job_dependencies` say. */
    pendingDependencies: integer('pending_dependencies').notNull().default(0),
    /** Children that have not ended. */
    pendingChildren: integer('pending_children').notNull().default(0),
    /** Name of the client's key; null where none are configured. Owners take turns: see jobs/fairness.ts. */
    owner: text('owner'),
    /** Jobs of a type that have the same key run at the same time only as far as the type's `per_key` allows. */
    concurrencyKey: text('concurrency_key'),
    /** It is ready, and waits until a job of its key ends. Triggers keep this column (`admit_jobs`). */
    throttled: boolean('throttled').notNull().default(false),
    /** Of what the client sent, for jobs whose id it chose: the same again is the same job. */
    fingerprint: text('fingerprint'),
    progress: jsonb('progress').$type<Progress>(),
    result: jsonb('result').$type<Record<string, unknown>>(),
    error: jsonb('error').$type<PublicError>(),
    createdAt: createdAt(),
    startedAt: time('started_at'),
    finishedAt: time('finished_at'),
    /** Where the client wants to hear of its end. */
    notifyUrl: text('notify_url'),
    /** Of the request that it comes from, as W3C Trace Context writes it; null when nothing is traced. */
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
    /** Jobs that wait are fitted to a new `per_key`, in batches; none of the type starts until that is done. */
    isRelimited: boolean('is_relimited').notNull().default(false),
    /** When the limits last changed: jobs that ran before may exceed them. */
    limitedAt: time('limited_at').notNull().defaultNow(),
    /** The token bucket of the rate limit, as of `refilledAt`. */
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
 * A DAG: a prerequisite is stored before its dependant, or in the same batch. An edge outlives its prerequisite, so that
 * a job never runs because the job that it waited for was deleted.
 */
export const jobDependencies = pgTable(
  'job_dependencies',
  {
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
    dependsOn: text('depends_on').notNull(),
    /** Null until the prerequisite has ended; a trigger sets it at first. Kept once the dependant has started. */
    outcome: text('outcome').$type<DependencyOutcome>(),
  },
  (table) => [
    primaryKey({ columns: [table.jobId, table.dependsOn] }),
    index('job_dependencies_dependants').on(table.dependsOn, table.jobId),
    check('job_dependencies_outcome_known', sql`outcome is null or ${oneOf('outcome', OUTCOMES)}`),
  ],
);

/**
 * Jobs whose dependants have yet to learn that they ended, run again or were deleted. Triggers on `jobs` insert the rows,
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

/** Retries, cancels or deletes all jobs that matched a filter at one moment, in batches by ascending id. */
export const bulkOperations = pgTable(
  'bulk_operations',
  {
    id: uuid('id').primaryKey(),
    /** Name of the client's key; null where none are configured. */
    owner: text('owner'),
    action: text('action').$type<BulkAction>().notNull(),
    /** As `whereJobs` reads it, times as text. */
    filter: jsonb('filter').$type<Record<string, string>>().notNull(),
    status: text('status').$type<'running' | 'completed'>().notNull().default('running'),
    /** Jobs that matched when it began. */
    count: integer('count').notNull(),
    /** Jobs that it has changed. */
    done: integer('done').notNull().default(0),
    /** Jobs that could not be changed, or had changed since. */
    skipped: integer('skipped').notNull().default(0),
    /** The last job that it has looked at. */
    cursor: text('cursor').notNull().default(''),
    /** Also the moment at which jobs had to match. */
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

/** What an attempt that was ended, and did not end by itself, ends with: its sandbox was killed or crashed, or its converter. */
const DEATHS: ErrorCode[] = ['out_of_memory', 'timeout', 'converter_lost', 'sandbox_violation', 'internal'];
/** Of an attempt. Written as the index has it, so that a query with it finds the few that have died among many failed. */
export const hasDied = sql`job_attempts.status = 'failed' and ${oneOf("job_attempts.error->>'code'", DEATHS)}`;

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
    /** When it last waited for the store: that time does not count against its timeout. */
    waitedAt: time('waited_at'),
    finishedAt: time('finished_at'),
  },
  (table) => [
    primaryKey({ columns: [table.jobId, table.attempt] }),
    index('job_attempts_died').on(table.finishedAt).where(hasDied),
  ],
);

/**
 * What happened, in the order of (xact, id): every change of a job, an upload or a page, written by triggers, and the
 * lines that tasks log. `xact` is the writing transaction's id: rows below the oldest running transaction are complete,
 * while serial ids alone commit out of order.
 */
export const events = pgTable(
  'events',
  {
    id: bigserial('id', { mode: 'number' }).primaryKey(),
    xact: transactionId('xact').notNull().default(sql`pg_current_xact_id()`),
    /**
     * The oldest transaction that was running when the event was written. No event with a higher id belongs to an older
     * one, so that a follower whose last event is no longer kept can continue here without a gap.
     */
    oldestXact: transactionId('oldest_xact').notNull().default(sql`pg_snapshot_xmin(pg_current_snapshot())`),
    at: time('at').notNull().default(sql`clock_timestamp()`),
    /** The owner of the job or upload, who alone follows the event; null for log lines, which belong to their job. */
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
    /** An error's code and message; the original and page; what a task logged. */
    data: jsonb('data').$type<Record<string, unknown>>(),
  },
  (table) => [
    index('events_order').on(table.xact, table.id),
    index('events_job').on(table.jobId, table.id).where(sql`job_id is not null`),
    index('events_owner').on(table.owner, table.xact, table.id).where(sql`owner is not null`),
    index('events_upload').on(table.uploadId, table.xact, table.id).where(sql`upload_id is not null`),
  ],
);

/** What a client is to hear of, once it is delivered; goes with its upload or job. */
export const webhooks = pgTable(
  'webhooks',
  {
    /** Also the webhook-id that the receiver sees. */
    id: uuid('id').primaryKey(),
    uploadId: uuid('upload_id').references(() => uploads.id, { onDelete: 'cascade' }),
    jobId: text('job_id').references(() => jobs.id, { onDelete: 'cascade' }),
    url: text('url').notNull(),
    /** Such as `upload.completed`. */
    type: text('type').notNull(),
    /** Of the URL. Rows of the version before have none. */
    host: text('host').notNull().default(''),
    status: text('status').$type<'pending' | 'delivered' | 'failed'>().notNull().default('pending'),
    createdAt: createdAt(),
    /** While it is pending: when it is to be sent next. */
    dueAt: time('due_at').notNull().defaultNow(),
    /** While an API process delivers it: when others may take it over. */
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
    /** Of the receiver's answer; null when there was none. */
    statusCode: integer('status_code'),
    /** Why it was not delivered; null when it was. */
    error: text('error'),
  },
  (table) => [primaryKey({ columns: [table.webhookId, table.attempt] })],
);

/** How each receiver behaved last, for all API processes: db/webhooks.ts decides by it which webhooks are sent next. */
export const webhookHosts = pgTable(
  'webhook_hosts',
  {
    host: text('host').primaryKey(),
    /** True if its last answer took longer than a prompt receiver's. */
    slow: boolean('slow').notNull(),
    /** Deliveries in a row without any answer. */
    failures: integer('failures').notNull(),
    /** When the first of them ended. */
    failingSince: time('failing_since'),
    /** Nothing is sent before this. */
    retryAt: time('retry_at'),
    changedAt: time('changed_at').notNull().defaultNow(),
  },
  (table) => [index('webhook_hosts_changed').on(table.changedAt)],
);

/** The ways of a schedule with runs while its previous job has not ended, and with runs that an outage has missed. */
export const OVERLAPS = ['allow', 'skip'] as const;
export const MISSED = ['once', 'skip'] as const;

/** The job of a schedule: as the client wrote it, and as each run submits it. */
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
    /** Part of the id of each run's job, so that jobs of a deleted schedule of the same name are no obstacle. */
    id: uuid('id').primaryKey(),
    /** Name of the client's key; null where none are configured. */
    owner: text('owner'),
    name: text('name').notNull(),
    cron: text('cron').notNull(),
    timezone: text('timezone').notNull(),
    paused: boolean('paused').notNull().default(false),
    overlap: text('overlap').$type<(typeof OVERLAPS)[number]>().notNull().default('allow'),
    missed: text('missed').$type<(typeof MISSED)[number]>().notNull().default('once'),
    job: jsonb('job').$type<ScheduledJob>().notNull(),
    /** Null while it is paused, and when its expression or time zone cannot be read any more. */
    nextRunAt: time('next_run_at'),
    /** The time that the last submitted run was due, or the moment of a run by hand. */
    lastRunAt: time('last_run_at'),
    lastJobId: text('last_job_id'),
    /** The reason that the last run was not submitted; null when it was. */
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

/** How many attempts each converter ended in each minute, and the highest memory that one of them took. */
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

/** The first answer to each Idempotency-Key; without an answer, the request is under way until `lockedUntil`. */
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

/** The job that requests with the same `unique` key get instead of a second one, until the key expires. */
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

/** The latest job of each owner that archives an upload; see conversion/archives.ts. */
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

/** How many turns each owner has taken; see jobs/fairness.ts. */
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
  /** Host and process id, for people. */
  name: text('name').notNull(),
  cpuUnits: integer('cpu_units').notNull(),
  memoryMb: integer('memory_mb').notNull(),
  /** The layers between its sandboxes and its machine. */
  isolation: jsonb('isolation').$type<{ level: string; layers: string[] }>(),
  status: text('status').$type<'live' | 'stopped' | 'lost'>().notNull().default('live'),
  /** Until when it holds the lease to make room for a large job that has waited too long. */
  drainsUntil: time('drains_until'),
  /** By when it has that room at the latest. */
  drainedAt: time('drained_at'),
  startedAt: time('started_at').notNull().defaultNow(),
  heartbeatAt: time('heartbeat_at').notNull().defaultNow(),
});

/** One row: since when the leader has looked at the heartbeats without a gap. Without such a watch nobody is declared lost. */
export const maintenance = pgTable(
  'maintenance',
  {
    id: integer('id').primaryKey().default(1),
    lastSeenAt: time('last_seen_at').notNull(),
    watchedSince: time('watched_since').notNull(),
  },
  () => [check('maintenance_one_row', sql`id = 1`)],
);
