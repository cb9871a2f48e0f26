import { asc, eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { findJob } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import { conflict, lockChange } from './change-lock.ts';
import { submitChildren } from './children.ts';
import { countEdges, placeDependants } from './dependants.ts';
import { type Edges, type Place, placeOf } from './dependencies.ts';
import { domain } from './domain.ts';
import type { Job } from './job.ts';
import { release } from './release.ts';
import { transition } from './transition.ts';

/**
 * Runs a failed or cancelled job again, with all its attempts. Work that completed is kept: of a job that was split, only
 * the other children run. Dependants that failed because of the job wait again. Returns undefined when there is no such
 * job; throws `conflict` when it has not failed, is part of another, or its prerequisites do not let it run.
 */
export async function retryJob(db: Database, queues: Queues, id: string): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    const found = await findJob(tx, id);
    if (found === undefined) return undefined;
    await lockChange(tx, found.uploadId ?? id);
    const refusal = await reopenJob(tx, queues, id);
    if (refusal !== undefined) throw conflict(refusal.reason);
    await placeDependants(tx, queues, [id]);
    return findJob(tx, id);
  });
}

/** A job cannot run again. */
export interface Refusal {
  reason: string;
  /** The state that its prerequisites require, when they are the reason. */
  place?: Extract<Place, { error: unknown }>;
}

const RESET = { error: null, result: null, progress: null, failures: 0, finishedAt: null };

/**
 * Lets a job run again that failed or was cancelled, or that completed and has work that failed. Returns the reason, and
 * changes nothing, when it may not run. The caller places its dependants.
 */
export async function reopenJob(tx: Transaction, queues: Queues, id: string): Promise<Refusal | undefined> {
  const edges = await lockEdges(tx, id);
  const [job] = await tx.select().from(jobs).where(eq(jobs.id, id)).for('update');
  if (job === undefined) return undefined;
  if (job.finishedAt === null || (job.status === 'completed' && !(await domain().isRetryable(tx, job))))
    return { reason: `${id} is ${job.status}: only failed or cancelled jobs can be retried` };
  if (job.parentId !== null) return { reason: `${id} is part of ${job.parentId}: retry that` };
  const place: Place = edges === undefined ? { status: 'free' } : placeOf(job.runOn, edges);
  if ('error' in place) return { reason: await adviceFor(tx, place, edges), place };

  if (!(await reopenChildren(tx, queues, job))) {
    if (place.status === 'free') await release(tx, queues, [id], { reset: true });
    else
      await tx
        .update(jobs)
        .set({ ...RESET, status: 'blocked', pendingDependencies: place.pending })
        .where(eq(jobs.id, id));
  }
  await domain().onRetried(tx, job);
  return undefined;
}

/** Lets the children run again that did not complete, beside new ones for the remaining work. Returns false without any. */
async function reopenChildren(tx: Transaction, queues: Queues, job: Job): Promise<boolean> {
  const children = await tx.select().from(jobs).where(eq(jobs.parentId, job.id)).orderBy(asc(jobs.id)).for('update');
  const undone = children.filter(({ status }) => status !== 'completed');
  const added = await domain().beforeRetry(tx, job, children);
  const pendingChildren = undone.length + added.length;
  if (pendingChildren === 0) return false;
  await tx
    .update(jobs)
    .set({ ...RESET, status: 'running', pendingChildren })
    .where(eq(jobs.id, job.id));
  await release(
    tx,
    queues,
    undone.toSorted((a, b) => a.arrivedAt.getTime() - b.arrivedAt.getTime()).map(({ id }) => id),
    { reset: true },
  );
  const attempt = Math.max(...[job, ...children].map((maker) => maker.attempt));
  await submitChildren(tx, queues, job, added, attempt);
  return true;
}

/**
 * Updates the edges of a job to the current state of its prerequisites; returns undefined when it has none. The
 * prerequisites are locked FOR SHARE, so that none of them ends unseen while this job becomes `blocked`.
 */
async function lockEdges(tx: Transaction, id: string): Promise<Edges | undefined> {
  const { rowCount } = await tx.execute(sql`select 1 from job_dependencies where job_id = ${id} limit 1`);
  if (rowCount === 0) return undefined;
  await tx.execute(sql`
    select 1 from jobs where id in (select depends_on from job_dependencies where job_id = ${id}) order by id for share`);
  await tx.execute(sql`
    update job_dependencies edge set outcome = known.outcome
    from (
      select depends_on, case
        when prerequisite.id is null then coalesce(pending.outcome, was.outcome, 'deleted')
        when prerequisite.finished_at is not null then prerequisite.status end as outcome
      from job_dependencies was left join jobs prerequisite on prerequisite.id = depends_on
      left join pending_outcomes pending on pending.job_id = depends_on
      where was.job_id = ${id}) known
    where edge.job_id = ${id} and edge.depends_on = known.depends_on and edge.outcome is distinct from known.outcome`);
  const { rows } = await tx.execute<Edges & Record<string, unknown>>(
    countEdges(sql`job_dependencies where job_id = ${id}`),
  );
  return rows[0];
}

async function adviceFor(
  tx: Transaction,
  { error }: Extract<Place, { error: unknown }>,
  edges: Edges | undefined,
): Promise<string> {
  const cause = edges?.failed;
  if (!cause || error.code !== 'dependency_failed') return `${error.message}: nothing is left to do`;
  const isThere = (await findJob(tx, cause.id)) !== undefined;
  return isThere
    ? `its prerequisite ${cause.id} is ${cause.outcome}: retry that`
    : `its prerequisite ${cause.id} was deleted before it completed: submit the job without it`;
}
