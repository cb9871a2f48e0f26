import { randomUUID, randomUUIDv7 } from 'node:crypto';
import { asc, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { insertRows } from '../db/insert.ts';
import type { Queues } from '../db/queues.ts';
import {
  type DependencyOutcome,
  ENDED,
  type JobStatus,
  jobDependencies,
  jobs,
  type Priority,
  type RunOn,
} from '../db/schema.ts';
import { AppError } from '../runtime/errors.ts';
import { type Edges, type Place, placeOf } from './dependencies.ts';
import { checkShape, type Shape } from './shape.ts';
import { createJobWebhooks } from './webhooks.ts';

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
  runOn?: RunOn | undefined;
  /** Requests with the same owner, type and key get this job for so long; see jobs/unique.ts. */
  unique?: { key: string; periodSeconds: number } | undefined;
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
  runOn: 'success',
  maxAttempts: 3,
  initialDelaySeconds: 1,
  backoffMultiplier: 2,
  timeoutSeconds: 300,
} as const;

/** Postgres reads this as the start of the transaction. */
const TRANSACTION_START = 'now';

/**
 * Stores jobs in the caller's transaction: `ready` and queued, `scheduled`, `blocked`, or failed with a prerequisite that
 * has failed already. Gives their ids in order. Throws
 * `unknown_dependency` (422) for a prerequisite that is neither stored nor among them; cycles are the caller's to refuse.
 */
export async function submitJobs(tx: Transaction, queues: Queues, newJobs: NewJob[]): Promise<string[]> {
  if (newJobs.length === 0) return [];
  for (const { shape } of newJobs) checkShape(shape);
  const named = newJobs.map((job) => ({ ...job, id: job.id ?? newJobId() }));
  const prerequisites = await lockPrerequisites(tx, named);
  const isPlain = newJobs.length === 1 && !newJobs[0]?.runAt;
  const began = isPlain ? TRANSACTION_START : await readTransactionStart(tx);
  const places = placesOf(named, prerequisites);
  const rows = named.map((job, index) => {
    const place = places(job.id);
    const error = 'error' in place ? place.error : null;
    const later = job.runAt && job.runAt > new Date(began) ? job.runAt : null;
    const status: JobStatus = place.status !== 'free' ? place.status : later ? 'scheduled' : 'ready';
    return {
      id: job.id,
      queueId: status === 'ready' ? randomUUID() : null,
      type: job.type,
      priority: job.priority,
      arrivedAt: job.arrivedAt ?? (index === 0 ? began : microsecondsAfter(began, index)),
      payload: job.payload,
      payloadBytes: payloadBytes(job.payload),
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
      runOn: job.runOn ?? DEFAULTS.runOn,
      pendingDependencies: place.status === 'blocked' ? place.pending : 0,
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
  await createJobWebhooks(
    tx,
    rows.flatMap(({ id, status, notifyUrl }) =>
      status === 'failed' || status === 'cancelled' ? [{ id, status, notifyUrl }] : [],
    ),
  );
  return named.map(({ id }) => id);
}

/** The length of a payload as JSON. */
export function payloadBytes(payload: Record<string, unknown>): number {
  return Buffer.byteLength(JSON.stringify(payload));
}

export function newJobId(): string {
  return `job_${randomUUIDv7()}`;
}

/** RFC 3339 with microseconds, which a Date would lose. */
async function readTransactionStart(tx: Transaction): Promise<string> {
  const { rows } = await tx.execute<{ now: string }>(
    sql`select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now`,
  );
  return rows[0]?.now as string;
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
    .select({ id: jobs.id, status: jobs.status, parentId: jobs.parentId })
    .from(jobs)
    .where(sql`${jobs.id} = any(${sql.param(wanted)})`)
    .orderBy(asc(jobs.id))
    .for('share');
  const statuses = new Map(found.map(({ id, status }) => [id, status]));
  const unknown = wanted.find((id) => !statuses.has(id));
  if (unknown !== undefined) {
    throw new AppError('unknown_dependency', `depends_on: there is no job ${unknown}`, { status: 422 });
  }
  // A child may be replaced by further children, and ends before their pages are made.
  const child = found.find(({ parentId }) => parentId !== null);
  if (child !== undefined) {
    const message = `depends_on: ${child.id} is part of ${child.parentId}: depend on that job`;
    throw new AppError('unknown_dependency', message, { status: 422 });
  }
  return statuses;
}

/** Where the prerequisites of each new job put it. */
function placesOf(newJobs: (NewJob & { id: string })[], prerequisites: Map<string, JobStatus>) {
  const inBatch = new Map(newJobs.map((job) => [job.id, job]));
  const known = new Map<string, Place>();

  function outcomeOf(id: string): DependencyOutcome | null {
    const status = inBatch.has(id) ? placed(id).status : prerequisites.get(id);
    return ENDED.find((end) => end === status) ?? null;
  }

  function placed(id: string): Place {
    const seen = known.get(id);
    if (seen !== undefined) return seen;
    const edges: Edges = { open: 0, failed: null };
    const job = inBatch.get(id);
    for (const on of new Set(job?.dependsOn)) {
      const outcome = outcomeOf(on);
      if (outcome === null) edges.open++;
      else if (outcome !== 'completed') edges.failed ??= { id: on, outcome };
    }
    // A job without prerequisites has nothing to wait for, on any `run_on`.
    const place: Place = job?.dependsOn?.length ? placeOf(job.runOn ?? DEFAULTS.runOn, edges) : { status: 'free' };
    known.set(id, place);
    return place;
  }
  return placed;
}
