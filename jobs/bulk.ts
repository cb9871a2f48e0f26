import { randomUUIDv7 } from 'node:crypto';
import { and, asc, eq, gt, type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { type JobFilter, whereJobs } from '../db/jobs.ts';
import { lockInTransaction } from '../db/locks.ts';
import { isOutage } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import { type BulkAction, bulkOperations, jobs } from '../db/schema.ts';
import { AppError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { BATCH_CHANGES } from './bulk-changes.ts';
import { transition } from './transition.ts';

/**
 * An operation that retries, cancels or deletes all jobs that match a filter. Each batch is a transaction that also updates
 * the row of the operation, so that any process can continue it.
 */
export type BulkOperation = typeof bulkOperations.$inferSelect;

const MAX_BATCH = 100;
/** The request waits for an operation of at most so many jobs. */
const MAX_AWAITED = 100;
const MAX_AWAITED_MS = 2_000;
const MAX_RUNNING_PER_OWNER = 5;

/**
 * Starts an operation, or joins a running one of the same owner, action and filter. A small operation has usually completed
 * on return; a large one continues in the background. Throws `too_many_requests` while the owner runs too many.
 */
export async function startBulk(
  db: Database,
  queues: Queues,
  log: Logger,
  wanted: { owner: string | null; action: BulkAction; filter: JobFilter },
): Promise<BulkOperation> {
  const started = await insertOrJoin(db, wanted);
  const deadline = Date.now() + MAX_AWAITED_MS;
  if (started.count <= MAX_AWAITED) {
    while (Date.now() < deadline && (await step(db, queues, log, started.id, { wait: true })));
  }
  return (await findBulk(db, started.id)) ?? started;
}

export async function findBulk(db: Database, id: string): Promise<BulkOperation | undefined> {
  const [found] = await db.select().from(bulkOperations).where(eq(bulkOperations.id, id));
  return found;
}

/** Changes one batch of each running operation. Returns true if work may remain. */
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

async function insertOrJoin(
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
      const message = `bulk operations: at most ${MAX_RUNNING_PER_OWNER} run at the same time; wait until one has ended`;
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

/** The jobs that an action can change, as of the start of the operation. Children follow their parents. */
function matching(action: BulkAction, at: SQL): SQL | undefined {
  switch (action) {
    case 'retry':
      return sql`${jobs.parentId} is null and ${jobs.status} in ('failed', 'cancelled') and ${jobs.finishedAt} <= ${at}`;
    case 'cancel':
      return sql`${jobs.parentId} is null and ${jobs.finishedAt} is null and ${jobs.createdAt} <= ${at}`;
    case 'delete':
      // Other jobs are deleted with their upload.
      return sql`${jobs.parentId} is null and ${jobs.uploadId} is null and ${jobs.finishedAt} <= ${at}`;
    default:
      return action satisfies never;
  }
}

/**
 * Changes the next batch. If that fails, changes its jobs one by one and skips those that fail again. Returns false when
 * the operation has ended, or another process holds it.
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
      const changed = ids.length > 0 ? await BATCH_CHANGES[operation.action](tx, queues, ids) : 0;
      return { ids, changed };
    });
  try {
    return await change(MAX_BATCH);
  } catch (error) {
    // Any other error occurs again for a single job, which is logged.
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

/** Runs `work` under the lock of the operation, and records its progress. The operation ends when no job is left. */
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

/** A job of an upload may have thousands of children, so that it is a separate batch. */
async function nextBatch(tx: Transaction, { id, action, filter, cursor }: BulkOperation, limit: number) {
  const began = sql`(select created_at from bulk_operations where id = ${id})`;
  const found = await tx
    .select({ id: jobs.id, uploadId: jobs.uploadId })
    .from(jobs)
    .where(and(whereJobs(filterFrom(filter)), matching(action, began), gt(jobs.id, cursor)))
    .orderBy(asc(jobs.id))
    .limit(limit);
  const first = found.findIndex(({ uploadId }) => uploadId !== null);
  const batch = first < 0 ? found : found.slice(0, Math.max(first, 1));
  return batch.map((job) => job.id);
}

/** JSON cannot hold dates and undefined. */
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
