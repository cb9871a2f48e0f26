import { sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { transition } from './transition.ts';

const MAX_SAMPLE = 1_000;

/** Ids of jobs that were sent to pg-boss, and of pg-boss jobs that were removed. */
export interface Repaired {
  sent: string[];
  removed: string[];
}

/**
 * Compares a random sample of jobs with pg-boss. A ready job without a pg-boss job gets one, because it would never run; a
 * pg-boss job without a job is removed. The engine writes both in one transaction, so they differ only after changes from
 * outside, such as a restore of one schema.
 */
export async function repairQueues(db: Database, queues: Queues): Promise<Repaired> {
  return transition(db, async (tx) => ({
    sent: await sendMissing(tx, queues),
    removed: await removeStray(tx, queues),
  }));
}

async function sendMissing(tx: Transaction, queues: Queues): Promise<string[]> {
  const isMissing = sql`not exists (select from pgboss.job queued where queued.id = jobs.queue_id)`;
  const { rows: suspects } = await tx.execute<{ id: string }>(sql`
    select id from (
      select * from jobs where queue_id > (select gen_random_uuid()) order by queue_id limit ${MAX_SAMPLE}) jobs
    where status = 'ready' and ${isMissing}`);
  if (suspects.length === 0) return [];
  const ids = sql`any(${sql.param(suspects.map(({ id }) => id))})`;
  // A statement sees only earlier commits, so that the jobs are read again under their locks.
  const { rows: locked } = await tx.execute<{ id: string }>(
    sql`select id from jobs where id = ${ids} order by id for update skip locked`,
  );
  const { rows } = await tx.execute<{ id: string; queue_id: string }>(sql`
    select id, queue_id from jobs
    where id = any(${sql.param(locked.map(({ id }) => id))}) and status = 'ready' and ${isMissing}`);
  await queues.send(
    tx,
    rows.map(({ queue_id }) => queue_id),
  );
  return rows.map(({ id }) => id);
}

async function removeStray(tx: Transaction, queues: Queues): Promise<string[]> {
  const { rows } = await tx.execute<{ id: string }>(sql`
    with sample as materialized (
      select id from pgboss.job
      where name = 'jobs' and state < 'completed' and id > (select gen_random_uuid()) order by id limit ${MAX_SAMPLE})
    select id from sample where not exists (select from jobs where jobs.queue_id = sample.id)`);
  const ids = rows.map(({ id }) => id);
  await queues.remove(tx, ids);
  return ids;
}
