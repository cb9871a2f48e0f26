import { and, eq, inArray, lte, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { tryLockInTransaction } from '../db/locks.ts';
import type { Queues } from '../db/queues.ts';
import { jobs, PRIORITIES } from '../db/schema.ts';
import { release } from './release.ts';
import { transition } from './transition.ts';

/** Small enough that a job which becomes due meanwhile waits for a fraction of a second. */
const BATCH = 500;

const due = and(inArray(jobs.status, ['scheduled', 'retrying']), lte(jobs.dueAt, sql`now()`));

/**
 * Makes due jobs ready, by priority and then by due time, in batches until none is left or `signal` is aborted. One process
 * at a time does so.
 */
export async function sendDueJobs(db: Database, queues: Queues, signal?: AbortSignal): Promise<void> {
  while (!signal?.aborted && (await hasDueJobs(db))) {
    if ((await sendBatch(db, queues)) < BATCH) return;
  }
}

/** Saves a transaction: every converter asks each second, and jobs are seldom due. */
async function hasDueJobs(db: Database): Promise<boolean> {
  const [first] = await db
    .select({ id: jobs.id })
    .from(jobs)
    .where(and(due, inArray(jobs.priority, [...PRIORITIES])))
    .limit(1);
  return first !== undefined;
}

/** Returns the number of jobs; 0 while another process holds the lock. */
async function sendBatch(db: Database, queues: Queues): Promise<number> {
  return transition(db, async (tx) => {
    if (!(await tryLockInTransaction(tx, 'dueJobs'))) return 0;
    const ids: string[] = [];
    for (const priority of PRIORITIES) ids.push(...(await lockDueJobs(tx, priority, BATCH - ids.length)));
    await release(tx, queues, ids);
    return ids.length;
  });
}

async function lockDueJobs(tx: Transaction, priority: (typeof PRIORITIES)[number], limit: number): Promise<string[]> {
  if (limit === 0) return [];
  const found = await tx
    .select({ id: jobs.id })
    .from(jobs)
    .where(and(due, eq(jobs.priority, priority)))
    .orderBy(jobs.dueAt)
    .limit(limit)
    .for('update', { skipLocked: true });
  return found.map(({ id }) => id);
}
