import { randomUUID, randomUUIDv7 } from 'node:crypto';
import { asc, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { insertRows } from '../db/insert.ts';
import type { Queues } from '../db/queues.ts';
import { type JobStatus, jobDependencies, jobs, type Priority, type RunOn } from '../db/schema.ts';
import { AppError } from '../runtime/errors.ts';
import { type Place, placeNewJobs } from './dependencies.ts';
import { checkShape, type Shape } from './shape.ts';
import { createJobWebhooks } from './webhooks.ts';

/** A job to be queued. `shape.memoryMb` is a memory class. */
export interface NewJob {
  /** Generated unless the client chose one. */
  id?: string | undefined;
  type: string;
  priority: Priority;
  payload: Record<string, unknown>;
  shape: Shape;
  /** Ids of stored jobs, or of jobs of the same batch. */
  dependsOn?: string[] | undefined;
  runOn?: RunOn | undefined;
  /** Requests with the same owner, type and key get this job during the period. */
  unique?: { key: string; periodSeconds: number } | undefined;
  runAt?: Date | null | undefined;
  owner?: string | null | undefined;
  /** The task limits how many jobs of its type with the same key run at the same time. */
  concurrencyKey?: string | null | undefined;
  fingerprint?: string | undefined;
  /** Continues the trace of the request that submitted the job. */
  traceparent?: string | null;
  /** Receives a webhook when the job ends. */
  notifyUrl?: string | null | undefined;
  /** Jobs with the same value change together, and are deleted with the row that it refers to. */
  uploadId?: string | null;
  /** Passed on to children. */
  original?: number | null;
  parentId?: string;
  /** Attempts that other jobs made at the same work: files are named by attempt. */
  attempt?: number;
  /** The time that decides its place in the queue; now by default. */
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

type Named = NewJob & { id: string };

/** Postgres reads this as the start of the transaction. */
const TRANSACTION_START = 'now';

/**
 * Stores jobs in the caller's transaction: `ready` and queued, `scheduled`, `blocked`, or ended because of a prerequisite
 * that has ended. Returns their ids in order. Throws `unknown_dependency` (422) for a prerequisite that is neither stored
 * nor among them; the caller refuses cycles.
 */
export async function submitJobs(tx: Transaction, queues: Queues, newJobs: NewJob[]): Promise<string[]> {
  if (newJobs.length === 0) return [];
  for (const { shape } of newJobs) checkShape(shape);
  const named = newJobs.map((job) => ({ ...job, id: job.id ?? newJobId() }));
  const places = placeNewJobs(named, await lockPrerequisites(tx, named));
  const needsTime = newJobs.length > 1 || newJobs[0]?.runAt;
  const now = needsTime ? await readTransactionStart(tx) : TRANSACTION_START;
  const rows = named.map((job, index) => rowOf(job, index, places.get(job.id) ?? { status: 'free' }, now));
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

/**
 * The row of a new job.
 * @param index of the job in its batch, whose order the queue keeps
 * @param now the start of the transaction
 */
function rowOf(job: Named, index: number, place: Place, now: string) {
  const error = 'error' in place ? place.error : null;
  const later = job.runAt && job.runAt > new Date(now) ? job.runAt : null;
  const status: JobStatus = place.status !== 'free' ? place.status : later ? 'scheduled' : 'ready';
  return {
    id: job.id,
    queueId: status === 'ready' ? randomUUID() : null,
    type: job.type,
    priority: job.priority,
    arrivedAt: job.arrivedAt ?? (index === 0 ? now : microsecondsAfter(now, index)),
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
    readyAt: status === 'ready' ? now : null,
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
    finishedAt: error ? now : null,
  };
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
  const [row] = rows;
  if (row === undefined) throw new Error('Postgres returned no time');
  return row.now;
}

/** A later time, in the format of `readTransactionStart`. */
function microsecondsAfter(time: string, count: number): string {
  const microseconds = Number(time.slice(23, 26)) + count;
  const later = new Date(Date.parse(`${time.slice(0, 23)}Z`) + Math.floor(microseconds / 1_000)).toISOString();
  return `${later.slice(0, 23)}${String(microseconds % 1_000).padStart(3, '0')}Z`;
}

/**
 * Locks the stored prerequisites, so that none of them ends between this read of its status and the commit of the edge.
 * Returns their statuses.
 */
async function lockPrerequisites(tx: Transaction, newJobs: Named[]): Promise<Map<string, JobStatus>> {
  const inBatch = new Set(newJobs.map(({ id }) => id));
  const wanted = [...new Set(newJobs.flatMap(({ dependsOn = [] }) => dependsOn))].filter((id) => !inBatch.has(id));
  if (wanted.length === 0) return new Map();
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
  // A child ends when it is split, before its siblings have done its work.
  const child = found.find(({ parentId }) => parentId !== null);
  if (child !== undefined) {
    const message = `depends_on: ${child.id} is part of ${child.parentId}: depend on that job`;
    throw new AppError('unknown_dependency', message, { status: 422 });
  }
  return statuses;
}
