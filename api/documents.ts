import { z } from 'zod';
import type { Event } from '../db/events.ts';
import type { Attempt, JobRow, ListedJob, Relative } from '../db/jobs.ts';
import type { Schedule } from '../db/schedules.ts';
import type { Progress } from '../db/schema.ts';
import type { listConverters, queueDepths, recentAbnormalEnds, recentThroughput } from '../db/system.ts';
import type { ListedUpload, Original, Page, PageCursor, Upload, UploadCounts } from '../db/uploads.ts';
import type { Webhook, WebhookAttempt } from '../db/webhooks.ts';
import type { BulkOperation } from '../jobs/bulk.ts';
import type { Task } from '../jobs/task.ts';
import { publicError } from '../runtime/errors.ts';
import type * as answers from './answers.ts';

/** The answers of the contract (see answers.ts), made from rows. */

type Answer<Schema extends z.ZodType> = z.output<Schema>;

const time = <T extends Date | null>(date: T) =>
  (date?.toISOString() ?? null) as T extends Date ? string : string | null;

function uploadSummary(upload: Upload): Answer<typeof answers.uploadSummary> {
  return {
    id: upload.id,
    status: upload.status,
    created_at: time(upload.createdAt),
    finished_at: time(upload.finishedAt),
    expires_at: time(upload.expiresAt),
    priority: upload.priority,
    notify_url: upload.notifyUrl,
    progress: progressOf(upload),
    error: upload.error,
  };
}

export function listedUpload(upload: ListedUpload): Answer<typeof answers.listedUpload> {
  return { ...uploadSummary(upload), filenames: upload.filenames };
}

export function uploadDocument(
  upload: Upload,
  originals: Original[],
  pages: { items: Page[]; next: PageCursor | null } = { items: [], next: null },
): Answer<typeof answers.upload> {
  return {
    ...uploadSummary(upload),
    originals: originals.map(originalDocument),
    pages: pages.items.map(pageDocument),
    pages_next_cursor: writePageCursor(pages.next),
  };
}

export function statusDocument(upload: Upload): Answer<typeof answers.uploadStatus> {
  return {
    id: upload.id,
    status: upload.status,
    done: upload.finishedAt !== null,
    progress: progressOf(upload),
    error: upload.error,
  };
}

/** The data of a webhook about an upload: of bounded size, however many pages it has. */
export function uploadNotice(upload: Upload, counts: UploadCounts): Answer<typeof answers.uploadNotice> {
  return {
    ...statusDocument(upload),
    finished_at: time(upload.finishedAt),
    counts: {
      originals: counts.originals,
      pages_completed: counts.pagesCompleted,
      pages_failed: counts.pagesFailed,
    },
    url: `/uploads/${upload.id}`,
  };
}

export function originalDocument(original: Original): Answer<typeof answers.original> {
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

export function pageDocument(page: Page): Answer<typeof answers.page> {
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

/** As `readPageCursor` in schemas.ts reads it. */
export function writePageCursor(next: PageCursor | null): string | null {
  return next && `${next.original}-${next.page}`;
}

function progressOf({ pagesDone, pagesTotal }: Upload) {
  return { pages_done: pagesDone, pages_total: pagesTotal };
}

export function jobDocument(
  job: JobRow,
  dependsOn: string[] = [],
  position: number | null = null,
): Answer<typeof answers.job> {
  return {
    job_id: job.id,
    type: job.type,
    status: job.status,
    priority: job.priority,
    position_in_queue: position,
    payload: job.payload,
    resource_requirements: { cpu_units: job.cpuUnits, memory_mb: job.memoryMb },
    depends_on: dependsOn,
    run_on: job.runOn,
    retry_config: {
      max_attempts: job.maxAttempts,
      backoff_multiplier: job.backoffMultiplier,
      initial_delay_seconds: job.initialDelaySeconds,
    },
    timeout_seconds: job.timeoutSeconds,
    run_at: time(job.runAt),
    notify_url: job.notifyUrl,
    concurrency_key: job.concurrencyKey,
    upload_id: job.uploadId,
    parent_id: job.parentId,
    progress: job.progress,
    result: job.result,
    error: job.error,
    created_at: time(job.createdAt),
    started_at: time(job.startedAt),
    finished_at: time(job.finishedAt),
  };
}

/** Like the document of a job, but for what is too large for a list: payload, result, and the prerequisites beyond `max`. */
export function listedJob(job: ListedJob, dependsOn: string[] = [], max: number): Answer<typeof answers.listedJob> {
  const { payload } = job;
  const isTruncated = job.truncated || dependsOn.length > max;
  return {
    ...jobDocument({ ...job, payload: payload ?? {} }, dependsOn.slice(0, max)),
    payload,
    ...(isTruncated && { truncated: true as const }),
  };
}

/** The data of a webhook about a job: of bounded size, however large its payload, result and history are. */
export function jobNotice(
  job: ListedJob,
  counts: { attempts: number; dependsOn: number },
): Answer<typeof answers.jobNotice> {
  const { depends_on: _, ...listed } = listedJob(job, [], 0);
  return {
    ...listed,
    counts: { attempts: counts.attempts, depends_on: counts.dependsOn },
    url: `/jobs/${encodeURIComponent(job.id)}`,
  };
}

export function jobDetail(
  job: JobRow,
  dependsOn: string[] | undefined,
  position: number | null,
  attempts: Attempt[],
): Answer<typeof answers.jobDetail> {
  return {
    ...jobDocument(job, dependsOn, position),
    attempts: attempts.map((attempt) => ({
      attempt: attempt.attempt,
      status: attempt.status,
      converter: attempt.converter,
      cpu_units: attempt.cpuUnits,
      memory_mb: attempt.memoryMb,
      peak_memory_mb: attempt.peakMemoryMb,
      started_at: time(attempt.startedAt),
      finished_at: time(attempt.finishedAt),
      error: attempt.error,
    })),
  };
}

/** Only ties between these jobs are told of. */
export function graphDocument(jobs: Relative[], complete: boolean): Answer<typeof answers.jobGraph> {
  const shown = new Set(jobs.map(({ id }) => id));
  const items = jobs.map(({ id, type, status, parentId, dependsOn }) => ({
    job_id: id,
    type,
    status,
    parent_id: parentId,
    depends_on: dependsOn.filter((prerequisite) => shown.has(prerequisite)),
  }));
  return { items, complete };
}

export function bulkDocument(operation: BulkOperation): Answer<typeof answers.bulkOperation> {
  return {
    id: operation.id,
    action: operation.action,
    status: operation.status,
    count: operation.count,
    done: operation.done,
    skipped: operation.skipped,
    created_at: time(operation.createdAt),
    finished_at: time(operation.finishedAt),
  };
}

/** One page of a list, made of one webhook more than it may have if there are more. */
export function webhookPage(
  found: (Webhook & { attempts: WebhookAttempt[] })[],
  limit: number,
): Answer<typeof answers.webhookList> {
  const items = found.slice(0, limit);
  return {
    items: items.map(webhookDocument),
    next_cursor: found.length > limit ? (items.at(-1)?.id ?? null) : null,
  };
}

function webhookDocument(webhook: Webhook & { attempts: WebhookAttempt[] }): Answer<typeof answers.webhook> {
  return {
    id: webhook.id,
    url: webhook.url,
    type: webhook.type,
    status: webhook.status,
    created_at: time(webhook.createdAt),
    finished_at: time(webhook.finishedAt),
    attempts: webhook.attempts.map((attempt) => ({
      attempt: attempt.attempt,
      started_at: time(attempt.startedAt),
      duration_ms: attempt.durationMs,
      status_code: attempt.statusCode,
      error: attempt.error,
    })),
  };
}

/** A line of a job's log: what its task said, or a change of its status. */
export function logDocument(event: Event): Answer<typeof answers.logLine> {
  const { id, at, kind, attempt, level, message, data } = event;
  return { id, at: time(at), attempt, level, message: kind === 'log' ? (message ?? '') : changeInWords(event), data };
}

function changeInWords({ status, data }: Event): string {
  return data === null ? `${status}` : `${status}: ${data.message}`;
}

/** A message of the stream: an event, or the progress of a job, which has no event. */
export type StreamEvent = Pick<
  Event,
  'id' | 'owner' | 'kind' | 'jobId' | 'uploadId' | 'type' | 'status' | 'attempt' | 'data' | 'at'
> & { progress: { [name: string]: number | null } | Progress | null };

export function eventDocument(event: StreamEvent): Answer<typeof answers.event> {
  return {
    id: event.id,
    // Logged lines are not among the events of the stream.
    kind: event.kind as 'job' | 'page' | 'upload',
    job_id: event.jobId,
    upload_id: event.uploadId,
    type: event.type,
    status: event.status,
    attempt: event.attempt,
    progress: event.progress && { ...event.progress },
    ...(event.kind === 'page' && event.data),
    at: time(event.at),
  };
}

export function scheduleDocument(schedule: Schedule): Answer<typeof answers.schedule> {
  const { name, cron, timezone, paused, overlap, missed, job } = schedule;
  return {
    name,
    cron,
    timezone,
    paused,
    overlap,
    missed,
    job: job.request,
    next_run_at: time(schedule.nextRunAt),
    last_run_at: time(schedule.lastRunAt),
    last_error: schedule.lastError,
    created_at: time(schedule.createdAt),
    updated_at: time(schedule.updatedAt),
  };
}

export function jobTypeDocument(task: Task, pausedAt: Date | undefined): Answer<typeof answers.jobType> {
  return {
    type: task.type,
    payload: z.toJSONSchema(task.payload, { io: 'input' }),
    resource_requirements: { cpu_units: task.resources.cpuUnits, memory_mb: task.resources.memoryMb },
    trusted: task.trusted ?? false,
    internal: task.internal ?? false,
    paused: pausedAt !== undefined,
    paused_at: pausedAt === undefined ? null : time(pausedAt),
    concurrency: { per_type: task.concurrency?.perType ?? null, per_key: task.concurrency?.perKey ?? null },
    rate: task.rate ?? null,
  };
}

type Rows<Query extends (...args: never[]) => Promise<unknown>> = Awaited<ReturnType<Query>>;

/** What works, what waits, and what was done lately. */
export function systemDocument(
  converters: Rows<typeof listConverters>,
  queues: Rows<typeof queueDepths>,
  minutes: Rows<typeof recentThroughput>,
  deaths: Rows<typeof recentAbnormalEnds>,
): Answer<typeof answers.system> {
  return {
    converters: converters.map((converter) => ({
      id: converter.id,
      name: converter.name,
      capacity: { cpu_units: converter.cpuUnits, memory_mb: converter.memoryMb },
      reserved: { cpu_units: converter.reservedCpuUnits, memory_mb: converter.reservedMemoryMb },
      running: converter.running,
      isolation: converter.isolation,
      started_at: time(converter.startedAt),
      heartbeat_at: time(converter.heartbeatAt),
    })),
    queues: queues.map((queue) => ({
      cpu_units: queue.cpuUnits,
      memory_mb: queue.memoryMb,
      depth: queue.depth,
      oldest_age_seconds: queue.oldestAgeSeconds,
    })),
    throughput: minutes.map(({ minute, completed, failed, peak_memory_mb }) => ({
      minute: time(new Date(minute)),
      completed,
      failed,
      peak_memory_mb,
    })),
    deaths: deaths.map(({ job, attempt }) => ({
      job_id: job.id,
      type: job.type,
      upload_id: job.uploadId,
      attempt: attempt.attempt,
      converter: attempt.converter,
      memory_mb: attempt.memoryMb,
      peak_memory_mb: attempt.peakMemoryMb,
      at: time(attempt.finishedAt ?? attempt.startedAt),
      error: attempt.error ?? publicError(undefined),
    })),
  };
}
