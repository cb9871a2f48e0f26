import { type SQL, sql } from 'drizzle-orm';
import {
  bigint,
  check,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  real,
  text,
  timestamp,
  uuid,
} from 'drizzle-orm/pg-core';
import type { PublicError } from '../errors.ts';

/** Life of an upload; the last three are ends. */
export const UPLOAD_STATUSES = ['queued', 'processing', 'completed', 'failed', 'cancelled'] as const;
export type UploadStatus = (typeof UPLOAD_STATUSES)[number];

/** Life of a job; the last three are ends. */
export const JOB_STATUSES = [
  'scheduled',
  'blocked',
  'ready',
  'running',
  'retrying',
  'completed',
  'failed',
  'cancelled',
] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];

export const PRIORITIES = ['critical', 'high', 'normal', 'low'] as const;
export type Priority = (typeof PRIORITIES)[number];

/** First and last page of a range, both included, counted from 1. */
export type PageRange = [from: number, to: number];

const time = (name: string) => timestamp(name, { withTimezone: true });
const createdAt = () => time('created_at').notNull().defaultNow();
const oneOf = (column: string, values: readonly string[]): SQL =>
  sql.raw(`${column} in (${values.map((value) => `'${value}'`).join(', ')})`);

export const uploads = pgTable(
  'uploads',
  {
    id: uuid('id').primaryKey(),
    status: text('status').$type<UploadStatus>().notNull().default('queued'),
    priority: text('priority').$type<Priority>().notNull(),
    dpi: integer('dpi').notNull(),
    /** The selection as the client wrote it, such as `1-3,7`; null means every page. */
    pageSelection: text('page_selection'),
    /** For encrypted PDFs; reaches the sandbox alone and is cleared when the upload ends. */
    password: text('password'),
    pagesDone: integer('pages_done').notNull().default(0),
    /** Null until the page count of every original is known. */
    pagesTotal: integer('pages_total'),
    error: jsonb('error').$type<PublicError>(),
    createdAt: createdAt(),
    finishedAt: time('finished_at'),
    expiresAt: time('expires_at'),
  },
  (table) => [
    index('uploads_status').on(table.status, table.id),
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
    mediaType: text('media_type').notNull(),
    bytes: bigint('bytes', { mode: 'number' }).notNull(),
    sha256: text('sha256').notNull(),
    path: text('path').notNull(),
    pageCount: integer('page_count'),
    /** The pages asked for, as ascending ranges; null until the file was inspected. */
    selected: jsonb('selected').$type<PageRange[]>(),
    error: jsonb('error').$type<PublicError>(),
  },
  (table) => [primaryKey({ columns: [table.uploadId, table.original] })],
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
    error: jsonb('error').$type<PublicError>(),
  },
  (table) => [
    primaryKey({ columns: [table.uploadId, table.original, table.page] }),
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
    /** The pg-boss job that stands for this one now; there is one if and only if the job is ready, or running itself. */
    queueId: uuid('queue_id'),
    type: text('type').notNull(),
    priority: text('priority').$type<Priority>().notNull(),
    /** Order among ready jobs, higher first: see jobs/order.ts. */
    rank: integer('rank').notNull(),
    payload: jsonb('payload').$type<Record<string, unknown>>().notNull(),
    cpuUnits: integer('cpu_units').notNull(),
    memoryMb: integer('memory_mb').notNull(),
    status: text('status').$type<JobStatus>().notNull(),
    attempt: integer('attempt').notNull().default(0),
    maxAttempts: integer('max_attempts').notNull(),
    initialDelaySeconds: real('initial_delay_seconds').notNull(),
    backoffMultiplier: real('backoff_multiplier').notNull(),
    timeoutSeconds: integer('timeout_seconds').notNull(),
    runAt: time('run_at'),
    converterId: uuid('converter_id'),
    uploadId: uuid('upload_id').references(() => uploads.id, { onDelete: 'cascade' }),
    original: integer('original'),
    parentId: text('parent_id'),
    pendingChildren: integer('pending_children').notNull().default(0),
    result: jsonb('result').$type<Record<string, unknown>>(),
    error: jsonb('error').$type<PublicError>(),
    createdAt: createdAt(),
    startedAt: time('started_at'),
    finishedAt: time('finished_at'),
  },
  (table) => [
    index('jobs_ready')
      .on(table.cpuUnits, table.memoryMb, table.rank.desc(), table.createdAt)
      .where(sql`status = 'ready'`),
    index('jobs_due').on(table.runAt).where(sql`status in ('scheduled', 'retrying')`),
    index('jobs_running').on(table.converterId).where(sql`status = 'running'`),
    index('jobs_upload').on(table.uploadId),
    index('jobs_parent').on(table.parentId).where(sql`parent_id is not null`),
    check('jobs_status_known', oneOf('status', JOB_STATUSES)),
    check(
      'jobs_queue_id',
      sql`(queue_id is not null) = (status = 'ready' or (status = 'running' and pending_children = 0))`,
    ),
    check('jobs_end', sql`(status in ('completed', 'failed', 'cancelled')) = (finished_at is not null)`),
    check('jobs_due_time', sql`status not in ('scheduled', 'retrying') or run_at is not null`),
  ],
);

export const jobAttempts = pgTable(
  'job_attempts',
  {
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
    attempt: integer('attempt').notNull(),
    status: text('status').$type<'running' | 'completed' | 'failed' | 'returned'>().notNull().default('running'),
    converterId: uuid('converter_id').notNull(),
    converter: text('converter').notNull(),
    cpuUnits: integer('cpu_units').notNull(),
    memoryMb: integer('memory_mb').notNull(),
    peakMemoryMb: integer('peak_memory_mb'),
    error: jsonb('error').$type<PublicError>(),
    startedAt: time('started_at').notNull().defaultNow(),
    finishedAt: time('finished_at'),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.attempt] })],
);

export const converters = pgTable('converters', {
  id: uuid('id').primaryKey(),
  /** Host and process id, for people. */
  name: text('name').notNull(),
  cpuUnits: integer('cpu_units').notNull(),
  memoryMb: integer('memory_mb').notNull(),
  status: text('status').$type<'live' | 'stopped' | 'lost'>().notNull().default('live'),
  startedAt: time('started_at').notNull().defaultNow(),
  heartbeatAt: time('heartbeat_at').notNull().defaultNow(),
});
