import { asc, eq, sql } from 'drizzle-orm';
import { forgetFailures, hasFailedPages, partsFor, reopenUpload } from '../conversion/record-pages.ts';
import type { Database, Transaction } from '../db/client.ts';
import { findJob } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import { submitChildren } from './children.ts';
import type { Job } from './claim.ts';
import { countEdges, placeDependants } from './dependants.ts';
import { type Edges, type Place, placeOf } from './dependencies.ts';
import { conflict, lockChange } from './exclusive.ts';
import { release } from './ready.ts';
import { transition } from './transition.ts';

/**
 * Runs a failed or cancelled job again, with all its attempts before it; of a job that was split, only the children that
 * did not complete; of a conversion, not the pages that are good. Dependants that failed because of it wait again. Gives
 * undefined when there is no such job; throws `conflict` when it has not failed, is part of another, or its prerequisites
 * do not let it run.
 */
export async function retryJob(db: Database, queues: Queues, id: string): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    const found = await findJob(tx, id);
    if (found === undefined) return undefined;
    await lockChange(tx, found.uploadId ?? id);
    const refusal = await reopen(tx, queues, id);
    if (refusal !== undefined) throw conflict(refusal.reason);
    await placeDependants(tx, queues, [id]);
    return findJob(tx, id);
  });
}

/** Why a job cannot run again; `place` is where its prerequisites put it, when they are the reason. */
export interface Refusal {
  reason: string;
  place?: Extract<Place, { error: unknown }>;
}

/**
 * Puts one job back to where it may run again: also a conversion that completed, if pages of it failed alone. Those that
 * belong to no child that runs again are made by new ones. Gives the reason, and changes nothing, when it may not. The
 * caller places its dependants.
 */
export async function reopen(tx: Transaction, queues: Queues, id: string): Promise<Refusal | undefined> {
  const edges = await lockedEdges(tx, id);
  const [job] = await tx.select().from(jobs).where(eq(jobs.id, id)).for('update');
  if (job === undefined) return undefined;
  if (job.finishedAt === null || (job.status === 'completed' && !(await hasFailedPages(tx, job))))
    return { reason: `${id} is ${job.status}: only jobs that failed or were cancelled can be retried` };
  if (job.parentId !== null) return { reason: `${id} is part of ${job.parentId}: retry that` };
  const place: Place = edges === undefined ? { status: 'free' } : placeOf(job.runOn, edges);
  if ('error' in place) return { reason: await adviceFor(tx, place, edges), place };

  const fresh = { error: null, result: null, progress: null, failures: 0, finishedAt: null };
  if (!(await reopenParts(tx, queues, job))) {
    if (place.status === 'free') await release(tx, queues, [id], { forget: true });
    else
      await tx
        .update(jobs)
        .set({ ...fresh, status: 'blocked', pendingDependencies: place.pending })
        .where(eq(jobs.id, id));
  }
  if (job.uploadId !== null) await reopenUpload(tx, job.uploadId);
  return undefined;

  /** A job that was split, or that has pages to be made again, waits for children. Gives whether it does. */
  async function reopenParts(tx: Transaction, queues: Queues, job: Job): Promise<boolean> {
    const children = await tx.select().from(jobs).where(eq(jobs.parentId, id)).orderBy(asc(jobs.id)).for('update');
    const undone = children.filter(({ status }) => status !== 'completed');
    const failedPages = await forgetFailures(tx, job);
    // A job that runs again makes its pages itself.
    const runsItself = children.length === 0 && job.status !== 'completed';
    const parts = runsItself
      ? []
      : partsFor(failedPages, [job, ...children]).filter(({ maker }) => !undone.includes(maker));
    const pendingChildren = undone.length + parts.length;
    if (pendingChildren === 0) return false;
    await tx
      .update(jobs)
      .set({ ...fresh, status: 'running', pendingChildren })
      .where(eq(jobs.id, id));
    await release(
      tx,
      queues,
      undone.toSorted((a, b) => a.arrivedAt.getTime() - b.arrivedAt.getTime()).map((child) => child.id),
      { forget: true },
    );
    const attempt = Math.max(...[job, ...children].map((maker) => maker.attempt));
    await submitChildren(tx, queues, job, parts, attempt);
    return true;
  }
}

/**
 * The edges of a job as its prerequisites are now: undefined when it has none. The prerequisites are held FOR SHARE, so
 * that none of them ends unseen while this job becomes `blocked` on it.
 */
async function lockedEdges(tx: Transaction, id: string): Promise<Edges | undefined> {
  const { rowCount } = await tx.execute(sql`select 1 from job_dependencies where job_id = ${id} limit 1`);
  if (rowCount === 0) return undefined;
  await tx.execute(sql`
    select 1 from jobs where id in (select depends_on from job_dependencies where job_id = ${id}) order by id for share`);
  await tx.execute(sql`
    update job_dependencies edge set outcome = known.outcome
    from (
      select depends_on, case
        when prerequisite.id is null then coalesce(told.outcome, was.outcome, 'deleted')
        when prerequisite.finished_at is not null then prerequisite.status end as outcome
      from job_dependencies was left join jobs prerequisite on prerequisite.id = depends_on
      left join pending_outcomes told on told.job_id = depends_on
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
