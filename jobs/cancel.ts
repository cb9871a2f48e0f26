import { and, asc, eq, isNull, notInArray, or, type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { findJob } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { ENDED, jobAttempts, jobs } from '../db/schema.ts';
import { conflict, lockChange } from './change-lock.ts';
import { placeDependants } from './dependants.ts';
import { endJobs, markEnded } from './end.ts';
import type { Job } from './job.ts';
import { RetryTransaction, transition } from './transition.ts';

/**
 * Cancels a job that has not ended, with its children; its dependants fail. A NOTIFY makes the converter abort the attempt,
 * which no longer owns the job and cannot write. Returns undefined when there is no such job; throws `conflict` when it has
 * ended, or is part of another.
 */
export async function cancelJob(db: Database, queues: Queues, id: string): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    const found = await findJob(tx, id);
    if (found === undefined) return undefined;
    await lockChange(tx, found.uploadId ?? id);
    const locked = await lockFamilies(tx, queues, or(eq(jobs.id, id), eq(jobs.parentId, id)));
    const job = await findJob(tx, id);
    if (job === undefined) return undefined;
    if (job.parentId !== null) throw conflict(`${id} is part of ${job.parentId}: cancel that`);
    if (job.finishedAt !== null) throw conflict(`${id} has ended already: ${job.status}`);
    await cancelFamilies(tx, queues, locked);
    return findJob(tx, id);
  });
}

/**
 * Locks the matching jobs that have not ended or have no parent, and removes them from the queue: until the transaction
 * ends, no attempt of them starts or ends, no child is added, and none is retried. Returns children before parents, each in
 * the order of their ids, which is the order of all locks.
 */
export async function lockFamilies(tx: Transaction, queues: Queues, matching: SQL | undefined): Promise<Job[]> {
  const wanted = and(matching, or(notInArray(jobs.status, [...ENDED]), isNull(jobs.parentId)));
  const locked = await tx
    .select()
    .from(jobs)
    .where(wanted)
    .orderBy(sql`${jobs.parentId} is null`, asc(jobs.id))
    .for('update');
  // A child may have been added before its parent was locked.
  if ((await tx.$count(jobs, wanted)) > locked.length) throw new RetryTransaction();
  await queues.remove(
    tx,
    locked.flatMap(({ queueId }) => queueId ?? []),
  );
  return locked;
}

/** Cancels the jobs of locked families that have not ended. */
export async function cancelFamilies(tx: Transaction, queues: Queues, locked: Job[]): Promise<void> {
  const live = locked.filter(({ finishedAt }) => finishedAt === null);
  const ends = live.map((job) => ({ job, status: 'cancelled' as const }));
  const children = ends.filter(({ job }) => job.parentId !== null);
  const idsOf = (list: { id: string }[]) => list.map(({ id }) => id);
  await tx
    .update(jobAttempts)
    .set({ status: 'cancelled', finishedAt: sql`now()` })
    .where(and(sql`${jobAttempts.jobId} = any(${sql.param(idsOf(live))})`, eq(jobAttempts.status, 'running')));
  // `endJobs` would complete a parent with its last child.
  if (children.length > 0) {
    await markEnded(tx, children);
    await placeDependants(tx, queues, idsOf(children.map(({ job }) => job)));
  }
  await endJobs(
    tx,
    queues,
    ends.filter(({ job }) => job.parentId === null),
  );
}
