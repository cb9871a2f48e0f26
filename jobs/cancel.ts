import { and, asc, eq, isNull, notInArray, or, type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { findJob } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { ENDED, jobAttempts, jobs } from '../db/schema.ts';
import type { Job } from './claim.ts';
import { placeDependants } from './dependants.ts';
import { endJobs, markEnded } from './end.ts';
import { conflict, lockChange } from './exclusive.ts';
import { queueName } from './shape.ts';
import { Moved, transition } from './transition.ts';

/**
 * Ends a job that has not ended, with its children; its dependants fail. A converter that runs it is told by NOTIFY, and
 * aborts it; what it still writes is fenced. Gives undefined when there is no such job; throws `conflict` when it has
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
 * Takes jobs out of their queues and locks their rows, in the order in which settling does: no attempt of theirs starts,
 * ends or has children from here on, and none of them is retried. Gives those of the jobs `which` that have not ended or
 * have no parent: children first, each in the order of their ids.
 */
export async function lockFamilies(tx: Transaction, queues: Queues, which: SQL | undefined): Promise<Job[]> {
  const wanted = and(which, or(notInArray(jobs.status, [...ENDED]), isNull(jobs.parentId)));
  const taken = new Set<string>();
  // What was queued anew, or born, while others were taken, is taken in the next round.
  for (;;) {
    const queued = await tx
      .select()
      .from(jobs)
      .where(and(wanted, sql`${jobs.queueId} is not null`));
    const left = queued.filter(({ queueId }) => !taken.has(queueId as string));
    if (left.length === 0) break;
    for (const [name, group] of Map.groupBy(left, queueName)) {
      const queueIds = group.map(({ queueId }) => queueId as string);
      await queues.remove(tx, name, queueIds);
      for (const queueId of queueIds) taken.add(queueId);
    }
  }
  const locked = await tx
    .select()
    .from(jobs)
    .where(wanted)
    .orderBy(sql`${jobs.parentId} is null`, asc(jobs.id))
    .for('update');
  // One that waited out its backoff may have become ready in between: it is looked at again.
  if (locked.some(({ queueId }) => queueId !== null && !taken.has(queueId))) throw new Moved();
  return locked;
}

/** Cancels what of `locked` families has not ended. */
export async function cancelFamilies(tx: Transaction, queues: Queues, locked: Job[]): Promise<void> {
  const live = locked.filter(({ finishedAt }) => finishedAt === null);
  const ends = live.map((job) => ({ job, status: 'cancelled' as const }));
  const children = ends.filter(({ job }) => job.parentId !== null);
  const idsOf = (list: { id: string }[]) => list.map(({ id }) => id);
  await tx
    .update(jobAttempts)
    .set({ status: 'cancelled', finishedAt: sql`now()` })
    .where(and(sql`${jobAttempts.jobId} = any(${sql.param(idsOf(live))})`, eq(jobAttempts.status, 'running')));
  // Not as children end by themselves: the last of them would end its parent.
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
