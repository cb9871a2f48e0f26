import { and, eq, isNull, or, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { type BulkAction, jobs } from '../db/schema.ts';
import { cancelFamilies, lockFamilies } from './cancel.ts';
import { placeDependants, waits } from './dependants.ts';
import { release } from './release.ts';
import { type Refusal, reopenJob } from './retry.ts';

type BatchChange = (tx: Transaction, queues: Queues, ids: string[]) => Promise<number>;

/** Each function changes a batch in the caller's transaction, and returns the number of jobs that it changed. */
export const BATCH_CHANGES: Record<BulkAction, BatchChange> = {
  retry: retryBatch,
  cancel: cancelBatch,
  delete: deleteBatch,
};

/** Jobs without dependencies, children and rows of the domain take one statement; others are reopened one by one. */
async function retryBatch(tx: Transaction, queues: Queues, ids: string[]): Promise<number> {
  const { rows } = await tx.execute<{ id: string }>(sql`
    select id from jobs where id = any(${sql.param(ids)}) and status in ('failed', 'cancelled') and upload_id is null
      and not exists (select 1 from job_dependencies where job_id = jobs.id)
      and not exists (select 1 from jobs child where child.parent_id = jobs.id)
    order by id for update`);
  const plain = rows.map(({ id }) => id);
  await release(tx, queues, plain, { reset: true });
  const reopened = [...plain];
  for (const id of ids) {
    if (plain.includes(id)) continue;
    const refusal = await reopenJob(tx, queues, id);
    if (refusal === undefined) reopened.push(id);
    else await waitForPrerequisite(tx, id, refusal);
  }
  await placeDependants(tx, queues, reopened);
  return reopened.length;
}

/** Marks a job as failed because of its prerequisites, so that it runs once they are retried, in any order. */
async function waitForPrerequisite(tx: Transaction, id: string, { place }: Refusal): Promise<void> {
  if (place === undefined) return;
  await tx
    .update(jobs)
    .set({ status: place.status, error: place.error })
    .where(and(eq(jobs.id, id), sql`not ${waits}`));
}

async function cancelBatch(tx: Transaction, queues: Queues, ids: string[]): Promise<number> {
  const isOne = (column: typeof jobs.id | typeof jobs.parentId) => sql`${column} = any(${sql.param(ids)})`;
  const locked = await lockFamilies(tx, queues, or(isOne(jobs.id), isOne(jobs.parentId)));
  await cancelFamilies(tx, queues, locked);
  return locked.filter(({ parentId, finishedAt }) => parentId === null && finishedAt === null).length;
}

async function deleteBatch(tx: Transaction, _queues: Queues, ids: string[]): Promise<number> {
  const isEnded = sql`${jobs.finishedAt} is not null`;
  const deleted = await tx
    .delete(jobs)
    .where(and(sql`${jobs.id} = any(${sql.param(ids)})`, isNull(jobs.uploadId), isEnded))
    .returning({ id: jobs.id });
  await tx.delete(jobs).where(sql`${jobs.parentId} = any(${sql.param(deleted.map(({ id }) => id))})`);
  return deleted.length;
}
