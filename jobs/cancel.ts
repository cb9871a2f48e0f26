import { and, asc, eq, inArray, notInArray, or, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { ENDED, jobAttempts, jobs } from '../db/schema.ts';
import { AppError } from '../errors.ts';
import type { Job } from './claim.ts';
import { endJobs, markEnded } from './end.ts';
import { queueName } from './shape.ts';
import { Moved, transition } from './transition.ts';

/**
 * Ends a job that has not ended, with its children; its dependants fail. A converter that runs it is told by NOTIFY, and
 * aborts it; what it still writes is fenced. Gives undefined when there is no such job; throws `conflict` when it has
 * ended, or is part of another.
 */
export async function cancelJob(db: Database, queues: Queues, id: string): Promise<Job | undefined> {
  return transition(db, async (tx) => {
    const seen = await familyOf(tx, id);
    const job = seen.find((member) => member.id === id);
    if (job === undefined) return undefined;
    if (job.parentId !== null) throw conflict(`${id} is part of ${job.parentId}: cancel that`);
    if (job.finishedAt !== null) throw conflict(`${id} has ended already: ${job.status}`);

    // pg-boss jobs are locked before ours, as everywhere; what moved on in between is looked at again.
    for (const member of seen) {
      if (member.queueId !== null) await queues.remove(tx, queueName(member), [member.queueId]);
    }
    const locked = await familyOf(tx, id, true);
    // A job that waits has no pg-boss job, and loses none when it ends.
    const moved = ({ queueId, finishedAt }: Job, index: number) =>
      queueId !== seen[index]?.queueId || finishedAt !== null;
    if (locked.length !== seen.length || locked.some(moved)) throw new Moved();

    await tx
      .update(jobAttempts)
      .set({ status: 'cancelled', finishedAt: sql`now()` })
      .where(
        and(
          inArray(
            jobAttempts.jobId,
            locked.map((member) => member.id),
          ),
          eq(jobAttempts.status, 'running'),
        ),
      );
    const children = locked.filter((member) => member.id !== id);
    if (children.length > 0)
      await markEnded(
        tx,
        children.map((child) => ({ job: child, status: 'cancelled' })),
      );
    await endJobs(tx, queues, [{ job: locked.find((member) => member.id === id) as Job, status: 'cancelled' }]);
    const [cancelled] = await tx.select().from(jobs).where(eq(jobs.id, id));
    return cancelled;
  });
}

/** Those of its children that have not ended, in the order of their ids, and the job: in the order in which settling locks them. */
async function familyOf(tx: Transaction, id: string, lock = false): Promise<Job[]> {
  const query = tx
    .select()
    .from(jobs)
    .where(or(eq(jobs.id, id), and(eq(jobs.parentId, id), notInArray(jobs.status, [...ENDED]))))
    .orderBy(sql`${jobs.id} = ${id}`, asc(jobs.id));
  return lock ? query.for('update') : query;
}

function conflict(message: string): AppError {
  return new AppError('conflict', message, { status: 409 });
}
