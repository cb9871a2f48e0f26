import { and, asc, eq, gt, inArray, isNull, lte, or, type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { type JobFilter, whereJobs } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { jobDependencies, jobs } from '../db/schema.ts';
import { conflict } from './cancel.ts';
import { submitChildren } from './children.ts';
import type { Job } from './claim.ts';
import { forgetFailures, hasFailedPages, partsFor, reopenUpload } from './conversion.ts';
import { restoreDependants } from './dependencies.ts';
import { release } from './ready.ts';
import { transition } from './transition.ts';

const BATCH = 100;

/**
 * Runs a failed or cancelled job again, with all its attempts before it; of a job that was split, only the children that
 * did not complete; of a conversion, not the pages that are good. What failed because of it waits again. Gives undefined when there is no such job; throws `conflict`
 * when it has not failed, is part of another, or waits for a prerequisite that has failed itself.
 */
export async function retryJob(db: Database, queues: Queues, id: string): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    const refusal = await reopen(tx, queues, id);
    if (refusal !== undefined) throw conflict(refusal);
    await restoreDependants(tx, [id]);
    const [job] = await tx.select().from(jobs).where(eq(jobs.id, id));
    return job;
  });
}

/**
 * Retries every failed or cancelled job that matches and had ended when the call began, in batches of a transaction each;
 * a job that failed for a prerequisite comes back with it. Gives how many jobs run or wait again.
 */
export async function retryJobs(
  db: Database,
  queues: Queues,
  filter: JobFilter & { status: 'failed' | 'cancelled' },
): Promise<number> {
  const { rows } = await db.execute<{ now: string }>(sql`select now()::text as now`);
  const began = rows[0]?.now as string;
  const wanted = and(whereJobs(filter), isNull(jobs.parentId), lte(jobs.finishedAt, sql`${began}::timestamptz`));

  async function retryOnce(which: SQL | undefined): Promise<number> {
    let retried = 0;
    for (let after = ''; ; ) {
      const batch = await db
        .select({ id: jobs.id })
        .from(jobs)
        .where(and(which, gt(jobs.id, after)))
        .orderBy(asc(jobs.id))
        .limit(BATCH);
      const ids = batch.map(({ id }) => id);
      if (ids.length === 0) return retried;
      after = ids.at(-1) as string;
      retried += await transition(db, async (tx) => {
        const reopened: string[] = [];
        for (const id of ids) if ((await reopen(tx, queues, id)) === undefined) reopened.push(id);
        return reopened.length + (await restoreDependants(tx, reopened));
      });
    }
  }

  // First what failed by itself, and brings its dependants back; then the rest, as long as more of it may run.
  let retried = await retryOnce(and(wanted, or(isNull(jobs.error), sql`not ${dependencyHasFailed()}`)));
  for (let more = 1; more > 0; retried += more) more = await retryOnce(wanted);
  return retried;
}

const dependencyHasFailed = (): SQL => sql`${jobs.error}->>'code' = 'dependency_failed'`;

/**
 * Puts one job back to where it may run again: also a conversion that completed, if pages of it failed alone. Those that
 * belong to no child that runs again are made by new ones. Gives the reason, and changes nothing, when it may not.
 */
export async function reopen(tx: Transaction, queues: Queues, id: string): Promise<string | undefined> {
  // Held FOR SHARE, so that none of them ends unseen while this job becomes `blocked` on it.
  const prerequisites = await tx
    .select({ id: jobs.id, status: jobs.status })
    .from(jobs)
    .where(
      inArray(
        jobs.id,
        tx.select({ id: jobDependencies.dependsOn }).from(jobDependencies).where(eq(jobDependencies.jobId, id)),
      ),
    )
    .orderBy(asc(jobs.id))
    .for('share');
  const [job] = await tx.select().from(jobs).where(eq(jobs.id, id)).for('update');
  if (job === undefined) return undefined;
  if (job.finishedAt === null || (job.status === 'completed' && !(await hasFailedPages(tx, job))))
    return `${id} is ${job.status}: only what failed or was cancelled can be retried`;
  if (job.parentId !== null) return `${id} is part of ${job.parentId}: retry that`;
  const ended = prerequisites.find(({ status }) => status === 'failed' || status === 'cancelled');
  if (ended !== undefined) return `its prerequisite ${ended.id} is ${ended.status}: retry that`;

  const pending = prerequisites.filter(({ status }) => status !== 'completed').length;
  const children = await tx.select().from(jobs).where(eq(jobs.parentId, id)).orderBy(asc(jobs.id)).for('update');
  const undone = children.filter(({ status }) => status !== 'completed');
  const failedPages = await forgetFailures(tx, job);
  // What runs again makes its pages itself.
  const runsItself = children.length === 0 && job.status !== 'completed';
  const parts = runsItself
    ? []
    : partsFor(failedPages, [job, ...children]).filter(({ maker }) => !undone.includes(maker));
  const fresh = { error: null, result: null, progress: null, failures: 0, finishedAt: null };
  const pendingChildren = undone.length + parts.length;
  if (pendingChildren > 0) {
    await tx
      .update(jobs)
      .set({ ...fresh, status: 'running', pendingChildren })
      .where(eq(jobs.id, id));
    await release(
      tx,
      queues,
      undone.map((child) => child.id),
      { forget: true },
    );
    const attempt = Math.max(...[job, ...children].map((maker) => maker.attempt));
    await submitChildren(tx, queues, job, parts, attempt);
  } else if (pending > 0) {
    await tx
      .update(jobs)
      .set({ ...fresh, status: 'blocked', pendingDependencies: pending })
      .where(eq(jobs.id, id));
  } else {
    await release(tx, queues, [id], { forget: true });
  }
  if (job.uploadId !== null) await reopenUpload(tx, job.uploadId);
  return undefined;
}
