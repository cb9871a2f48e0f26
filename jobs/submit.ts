import { randomUUID, randomUUIDv7 } from 'node:crypto';
import { asc, inArray, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { insertRows } from '../db/insert.ts';
import type { Queues } from '../db/queues.ts';
import { type JobStatus, jobDependencies, jobs, type Priority } from '../db/schema.ts';
import { AppError, type PublicError } from '../errors.ts';
import { dependencyFailed } from './dependencies.ts';
import type { Shape } from './shape.ts';
import { notifyEnded } from './webhooks.ts';

/** A job to be queued. `shape.memoryMb` is a memory class already. */
export interface NewJob {
  /** One is made where the client chose none. */
  id?: string | undefined;
  type: string;
  priority: Priority;
  payload: Record<string, unknown>;
  shape: Shape;
  /** Jobs that exist, or come in the same call. */
  dependsOn?: string[] | undefined;
  runAt?: Date | null | undefined;
  owner?: string | null | undefined;
  /** Joins the jobs of a type of which only so many run at a time as the task allows. */
  concurrencyKey?: string | null | undefined;
  fingerprint?: string | undefined;
  /** Of the request that it comes from. */
  traceparent?: string | null;
  /** Where its end is told. */
  notifyUrl?: string | null | undefined;
  uploadId?: string | null;
  /** Which original of the upload it works on, counted from 1. */
  original?: number | null;
  parentId?: string;
  /** Attempts counted before its own, at the same pages: files are named by attempt. */
  attempt?: number;
  /** When it counts as having come into the queue: now, unless set. */
  arrivedAt?: Date | undefined;
  timeoutSeconds?: number | undefined;
  maxAttempts?: number | undefined;
  initialDelaySeconds?: number | undefined;
  backoffMultiplier?: number | undefined;
}

export const DEFAULTS = {
  priority: 'normal',
  maxAttempts: 3,
  initialDelaySeconds: 1,
  backoffMultiplier: 2,
  timeoutSeconds: 300,
} as const;

/**
 * Stores jobs in the caller's transaction: `ready` and queued, `scheduled`, `blocked`, or failed with a prerequisite that
 * has failed already. Gives their ids in order. Throws
 * `unknown_dependency` (422) for a prerequisite that is neither stored nor among them; cycles are the caller's to refuse.
 */
export async function submitJobs(tx: Transaction, queues: Queues, newJobs: NewJob[]): Promise<string[]> {
  if (newJobs.length === 0) return [];
  const named = newJobs.map((job) => ({ ...job, id: job.id ?? `job_${randomUUIDv7()}` }));
  const prerequisites = await lockPrerequisites(tx, named);
  const { rows: clock } = await tx.execute<{ now: string }>(
    sql`select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now`,
  );
  const began = clock[0]?.now as string;
  const now = new Date(began);
  const places = placesOf(named, prerequisites);
  const rows = named.map((job, index) => {
    const { pending, error } = places(job.id);
    const later = job.runAt && job.runAt > now ? job.runAt : null;
    const status: JobStatus = error ? 'failed' : pending > 0 ? 'blocked' : later ? 'scheduled' : 'ready';
    return {
      id: job.id,
      queueId: status === 'ready' ? randomUUID() : null,
      type: job.type,
      priority: job.priority,
      arrivedAt: job.arrivedAt ?? microsecondsAfter(began, index),
      payload: job.payload,
      ...job.shape,
      status,
      attempt: job.attempt ?? 0,
      maxAttempts: job.maxAttempts ?? DEFAULTS.maxAttempts,
      initialDelaySeconds: job.initialDelaySeconds ?? DEFAULTS.initialDelaySeconds,
      backoffMultiplier: job.backoffMultiplier ?? DEFAULTS.backoffMultiplier,
      timeoutSeconds: job.timeoutSeconds ?? DEFAULTS.timeoutSeconds,
      runAt: job.runAt ?? null,
      dueAt: status === 'scheduled' ? later : null,
      readyAt: status === 'ready' ? began : null,
      uploadId: job.uploadId ?? null,
      original: job.original ?? null,
      parentId: job.parentId ?? null,
      pendingDependencies: pending,
      owner: job.owner ?? null,
      concurrencyKey: job.concurrencyKey ?? null,
      fingerprint: job.fingerprint ?? null,
      notifyUrl: job.notifyUrl ?? null,
      traceparent: job.traceparent ?? null,
      error,
      finishedAt: error ? began : null,
    };
  });
  await queues.send(
    tx,
    rows.flatMap(({ queueId }) => queueId ?? []),
  );
  await insertRows(tx, jobs, rows);
  const edges = named.flatMap(({ id, dependsOn = [] }) =>
    [...new Set(dependsOn)].map((on) => ({ jobId: id, dependsOn: on })),
  );
  await insertRows(tx, jobDependencies, edges);
  await notifyEnded(
    tx,
    queues,
    rows.flatMap(({ id, status, notifyUrl }) => (status === 'failed' ? [{ jobId: id, status, notifyUrl }] : [])),
  );
  return named.map(({ id }) => id);
}

/** Keeps the order of a batch. Takes and gives RFC 3339 with microseconds, which a Date would lose. */
function microsecondsAfter(time: string, count: number): string {
  const microseconds = Number(time.slice(23, 26)) + count;
  const later = new Date(Date.parse(`${time.slice(0, 23)}Z`) + Math.floor(microseconds / 1_000)).toISOString();
  return `${later.slice(0, 23)}${String(microseconds % 1_000).padStart(3, '0')}Z`;
}

/**
 * The stored prerequisites, locked: one that is about to end does so before this transaction reads its status or after
 * it has committed the edge, and never in between.
 */
async function lockPrerequisites(tx: Transaction, newJobs: (NewJob & { id: string })[]) {
  const inBatch = new Set(newJobs.map(({ id }) => id));
  const wanted = [...new Set(newJobs.flatMap(({ dependsOn = [] }) => dependsOn))].filter((id) => !inBatch.has(id));
  if (wanted.length === 0) return new Map<string, JobStatus>();
  const found = await tx
    .select({ id: jobs.id, status: jobs.status })
    .from(jobs)
    .where(inArray(jobs.id, wanted))
    .orderBy(asc(jobs.id))
    .for('share');
  const statuses = new Map(found.map(({ id, status }) => [id, status]));
  const unknown = wanted.find((id) => !statuses.has(id));
  if (unknown !== undefined) {
    throw new AppError('unknown_dependency', `depends_on: there is no job ${unknown}`, { status: 422 });
  }
  return statuses;
}

/** For each job: how many prerequisites are still to complete, or the error if one of them never will. */
function placesOf(newJobs: (NewJob & { id: string })[], prerequisites: Map<string, JobStatus>) {
  const inBatch = new Map(newJobs.map((job) => [job.id, job]));
  const known = new Map<string, { pending: number; error: PublicError | null }>();

  function placeOf(id: string): { pending: number; error: PublicError | null } {
    const seen = known.get(id);
    if (seen !== undefined) return seen;
    let error: PublicError | null = null;
    let pending = 0;
    for (const on of new Set(inBatch.get(id)?.dependsOn)) {
      const status = inBatch.has(on) ? (placeOf(on).error ? 'failed' : 'blocked') : prerequisites.get(on);
      if (status !== 'completed') pending++;
      if (status === 'failed' || status === 'cancelled') error ??= dependencyFailed(on, status);
    }
    const place = { pending, error };
    known.set(id, place);
    return place;
  }
  return placeOf;
}
