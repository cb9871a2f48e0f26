import { z } from 'zod';
import type { Event } from '../../db/events.ts';
import type { Attempt, JobRow, ListedJob, Relative } from '../../db/jobs.ts';
import type { Schedule } from '../../db/schedules.ts';
import type { BulkOperation } from '../../jobs/bulk.ts';
import type { TaskDefinition } from '../../jobs/task.ts';
import { formatTime } from '../http/fields.ts';
import type * as responses from './responses.ts';

/** Documents made from rows. */

export function jobDocument(
  job: JobRow,
  dependsOn: string[] = [],
  position: number | null = null,
): z.output<typeof responses.job> {
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
    run_at: formatTime(job.runAt),
    notify_url: job.notifyUrl,
    concurrency_key: job.concurrencyKey,
    upload_id: job.uploadId,
    parent_id: job.parentId,
    progress: job.progress,
    result: job.result,
    error: job.error,
    created_at: formatTime(job.createdAt),
    started_at: formatTime(job.startedAt),
    finished_at: formatTime(job.finishedAt),
  };
}

/** The document of a job without a large payload or result, and with at most `max` dependencies. */
export function listedJob(job: ListedJob, dependsOn: string[] = [], max: number): z.output<typeof responses.listedJob> {
  const { payload } = job;
  const isTruncated = job.truncated || dependsOn.length > max;
  return {
    ...jobDocument({ ...job, payload: payload ?? {} }, dependsOn.slice(0, max)),
    payload,
    ...(isTruncated && { truncated: true as const }),
  };
}

/** The data of a webhook about a job, without unbounded parts. */
export function jobNotice(
  job: ListedJob,
  counts: { attempts: number; dependsOn: number },
): z.output<typeof responses.jobNotice> {
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
): z.output<typeof responses.jobDetail> {
  return {
    ...jobDocument(job, dependsOn, position),
    attempts: attempts.map((attempt) => ({
      attempt: attempt.attempt,
      status: attempt.status,
      converter: attempt.converter,
      cpu_units: attempt.cpuUnits,
      memory_mb: attempt.memoryMb,
      peak_memory_mb: attempt.peakMemoryMb,
      started_at: formatTime(attempt.startedAt),
      finished_at: formatTime(attempt.finishedAt),
      error: attempt.error,
    })),
  };
}

/** Contains only dependencies between these jobs. */
export function graphDocument(jobs: Relative[], complete: boolean): z.output<typeof responses.jobGraph> {
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

export function bulkDocument(operation: BulkOperation): z.output<typeof responses.bulkOperation> {
  return {
    id: operation.id,
    action: operation.action,
    status: operation.status,
    count: operation.count,
    done: operation.done,
    skipped: operation.skipped,
    created_at: formatTime(operation.createdAt),
    finished_at: formatTime(operation.finishedAt),
  };
}

/** A line of the log of a job: a message of its task, or a change of its status. */
export function logDocument(event: Event): z.output<typeof responses.logLine> {
  const { id, at, kind, attempt, level, message, data } = event;
  return {
    id,
    at: formatTime(at),
    attempt,
    level,
    message: kind === 'log' ? (message ?? '') : changeInWords(event),
    data,
  };
}

function changeInWords({ status, data }: Event): string {
  return data === null ? `${status}` : `${status}: ${data.message}`;
}

export function scheduleDocument(schedule: Schedule): z.output<typeof responses.schedule> {
  const { name, cron, timezone, paused, overlap, missed, job } = schedule;
  return {
    name,
    cron,
    timezone,
    paused,
    overlap,
    missed,
    job: job.request,
    next_run_at: formatTime(schedule.nextRunAt),
    last_run_at: formatTime(schedule.lastRunAt),
    last_error: schedule.lastError,
    created_at: formatTime(schedule.createdAt),
    updated_at: formatTime(schedule.updatedAt),
  };
}

export function jobTypeDocument(task: TaskDefinition, pausedAt: Date | undefined): z.output<typeof responses.jobType> {
  return {
    type: task.type,
    payload: z.toJSONSchema(task.payload, { io: 'input' }),
    resource_requirements: { cpu_units: task.resources.cpuUnits, memory_mb: task.resources.memoryMb },
    trusted: task.trusted ?? false,
    internal: task.internal ?? false,
    paused: pausedAt !== undefined,
    paused_at: pausedAt === undefined ? null : formatTime(pausedAt),
    concurrency: { per_type: task.concurrency?.perType ?? null, per_key: task.concurrency?.perKey ?? null },
    rate: task.rate ?? null,
  };
}
