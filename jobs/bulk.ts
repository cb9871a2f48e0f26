import { randomUUIDv7 } from 'node:crypto';
import { and, asc, eq, gt, isNull, or, type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { type JobFilter, whereJobs } from '../db/jobs.ts';
import { lockInTransaction } from '../db/locks.ts';
import { isOutage } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import { type BulkAction, bulkOperations, jobs } from '../db/schema.ts';
import { AppError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { cancelFamilies, lockFamilies } from './cancel.ts';
import { placeDependants, waits } from './dependants.ts';
import { release } from './ready.ts';
import { type Refusal, reopen } from './retry.ts';
import { transition } from './transition.ts';

/**
 * Retries, cancels or deletes all jobs that match a filter, in batches of a transaction each. The row of the operation is
 * written with each batch, so that any process continues where another stopped.
 */

export type BulkOperation = typeof bulkOperations.$inferSelect;

const MAX_BATCH = 100;
/** Up to so many jobs are changed before the request is answered, if that takes no longer. */
const MAX_AT_ONCE = 100;
const MAX_AT_ONCE_MS = 2_000;
const MAX_RUNNING_PER_OWNER = 5;

/**
 * Begins an operation, or joins one of the same owner, action and filter that still runs. Few jobs are changed when it
 * returns, more in the background. Throws `too_many_requests` while the owner has too many of them.
 */
export async function startBulk(
  db: Database,
  queues: Queues,
  log: Logger,
  wanted: { owner: string | null; action: BulkAction; filter: JobFilter },
): Promise<BulkOperation> {
  const began = await begin(db, wanted);
  const deadline = Date.now() + MAX_AT_ONCE_MS;
  if (began.count <= MAX_AT_ONCE) {
    while (Date.now() < deadline && (await step(db, queues, log, began.id, { wait: true })));
  }
  return (await findBulk(db, began.id)) ?? began;
}

export async function findBulk(db: Database, id: string): Promise<BulkOperation | undefined> {
  const [found] = await db.select().from(bulkOperations).where(eq(bulkOperations.id, id));
  return found;
}

/** One batch of each operation that runs. Gives whether there may be more to do. */
export async function advanceBulk(db: Database, queues: Queues, log: Logger): Promise<boolean> {
  const running = await db
    .select({ id: bulkOperations.id })
    .from(bulkOperations)
    .where(eq(bulkOperations.status, 'running'))
    .orderBy(asc(bulkOperations.id));
  let more = false;
  for (const { id } of running) if (await step(db, queues, log, id, { wait: false })) more = true;
  return more;
}

async function begin(
  db: Database,
  { owner, action, filter }: { owner: string | null; action: BulkAction; filter: JobFilter },
): Promise<BulkOperation> {
  const stored = storedFilter(filter);
  const running = and(
    eq(bulkOperations.status, 'running'),
    sql`coalesce(${bulkOperations.owner}, '') = ${owner ?? ''}`,
  );
  return transition(db, async (tx) => {
    await lockInTransaction(tx, 'bulkStart', owner ?? '');
    const others = await tx.select().from(bulkOperations).where(running);
    const [same] = await tx
      .select()
      .from(bulkOperations)
      .where(and(running, eq(bulkOperations.action, action), eq(bulkOperations.filter, stored)));
    if (same !== undefined) return same;
    if (others.length >= MAX_RUNNING_PER_OWNER) {
      const message = `${others.length} bulk operations run already, the most allowed: wait until one has ended`;
      throw new AppError('too_many_requests', message, { status: 429, retryable: true });
    }
    const count = await tx.$count(jobs, and(whereJobs(filter), matching(action, sql`now()`)));
    const [made] = await tx
      .insert(bulkOperations)
      .values({ id: randomUUIDv7(), owner, action, filter: stored, count })
      .returning();
    if (made === undefined) throw new Error('the operation was not stored');
    return made;
  });
}

/** Jobs that an action can change, as they were at one moment. Children follow their parents. */
function matching(action: BulkAction, at: SQL): SQL | undefined {
  switch (action) {
    case 'retry':
      return sql`${jobs.parentId} is null and ${jobs.status} in ('failed', 'cancelled') and ${jobs.finishedAt} <= ${at}`;
    case 'cancel':
      return sql`${jobs.parentId} is null and ${jobs.finishedAt} is null and ${jobs.createdAt} <= ${at}`;
    case 'delete':
      // Jobs of an upload are deleted with it.
      return sql`${jobs.parentId} is null and ${jobs.uploadId} is null and ${jobs.finishedAt} <= ${at}`;
    default:
      return action satisfies never;
  }
}

/**
 * Changes the next batch. When that fails, its jobs are changed one by one, and one that cannot be changed is skipped.
 * Gives false when the operation has ended, or another process is at it.
 */
async function step(
  db: Database,
  queues: Queues,
  log: Logger,
  id: string,
  { wait }: { wait: boolean },
): Promise<boolean> {
  const change = (limit: number) =>
    onOperation(db, id, wait, async (tx, operation) => {
      const ids = await nextBatch(tx, operation, limit);
      const changed = ids.length > 0 ? await CHANGES[operation.action](tx, queues, ids) : 0;
      return { ids, changed };
    });
  try {
    return await change(MAX_BATCH);
  } catch (error) {
    if (isOutage(error)) throw error;
  }
  for (let job = 0; job < MAX_BATCH; job++) {
    try {
      if (!(await change(1))) return false;
    } catch (error) {
      if (isOutage(error)) throw error;
      await onOperation(db, id, wait, async (tx, operation) => {
        const ids = await nextBatch(tx, operation, 1);
        log.error({ err: error, operation: id, jobs: ids }, `bulk ${operation.action} skipped a job`);
        return { ids, changed: 0 };
      });
    }
  }
  return true;
}

/** Runs `work` while this process holds the operation, and records how far it came. No job left ends the operation. */
async function onOperation(
  db: Database,
  id: string,
  wait: boolean,
  work: (tx: Transaction, operation: BulkOperation) => Promise<{ ids: string[]; changed: number }>,
): Promise<boolean> {
  return transition(db, async (tx) => {
    const [operation] = await tx
      .select()
      .from(bulkOperations)
      .where(and(eq(bulkOperations.id, id), eq(bulkOperations.status, 'running')))
      .for('update', wait ? {} : { skipLocked: true });
    if (operation === undefined) return false;
    const { ids, changed } = await work(tx, operation);
    const last = ids.at(-1);
    await tx
      .update(bulkOperations)
      .set(
        last === undefined
          ? { status: 'completed', finishedAt: sql`now()` }
          : {
              cursor: last,
              done: operation.done + changed,
              skipped: operation.skipped + ids.length - changed,
            },
      )
      .where(eq(bulkOperations.id, id));
    return last !== undefined;
  });
}

/** A conversion may have thousands of children, and is a separate batch. */
async function nextBatch(tx: Transaction, { id, action, filter, cursor }: BulkOperation, limit: number) {
  const began = sql`(select created_at from bulk_operations where id = ${id})`;
  const found = await tx
    .select({ id: jobs.id, uploadId: jobs.uploadId })
    .from(jobs)
    .where(and(whereJobs(filterFrom(filter)), matching(action, began), gt(jobs.id, cursor)))
    .orderBy(asc(jobs.id))
    .limit(limit);
  const conversion = found.findIndex(({ uploadId }) => uploadId !== null);
  const batch = conversion < 0 ? found : found.slice(0, Math.max(conversion, 1));
  return batch.map((job) => job.id);
}

/** Without the fields that are not given, which JSON has no place for. */
function storedFilter({ createdAfter, createdBefore, ...same }: JobFilter): Record<string, string> {
  const fields = { ...same, createdAfter: createdAfter?.toISOString(), createdBefore: createdBefore?.toISOString() };
  return Object.fromEntries(
    Object.entries(fields).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
  );
}

function filterFrom({ createdAfter, createdBefore, ...same }: Record<string, string>): JobFilter {
  return {
    ...same,
    ...(createdAfter !== undefined && { createdAfter: new Date(createdAfter) }),
    ...(createdBefore !== undefined && { createdBefore: new Date(createdBefore) }),
  };
}

/** Each changes a batch in the caller's transaction, and gives how many jobs it has changed. */
const CHANGES: Record<BulkAction, (tx: Transaction, queues: Queues, ids: string[]) => Promise<number>> = {
  retry: retryBatch,
  cancel: cancelBatch,
  delete: deleteBatch,
};

async function retryBatch(tx: Transaction, queues: Queues, ids: string[]): Promise<number> {
  const { rows } = await tx.execute<{ id: string }>(sql`
    select id from jobs where id = any(${sql.param(ids)}) and status in ('failed', 'cancelled') and upload_id is null
      and not exists (select 1 from job_dependencies where job_id = jobs.id)
      and not exists (select 1 from jobs child where child.parent_id = jobs.id)
    order by id for update`);
  const plain = rows.map(({ id }) => id);
  await release(tx, queues, plain, { forget: true });
  const reopened = [...plain];
  for (const id of ids) {
    if (plain.includes(id)) continue;
    const refusal = await reopen(tx, queues, id);
    if (refusal === undefined) reopened.push(id);
    else await waitForPrerequisite(tx, id, refusal);
  }
  await placeDependants(tx, queues, reopened);
  return reopened.length;
}

/** A job that its prerequisites do not let run fails because of them: so it runs once they are retried, in any order. */
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
