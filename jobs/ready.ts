import { inArray, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import { queueName } from './shape.ts';

/** A job that stands in a queue now. */
type Queued = { queueId: string; rank: number; cpuUnits: number; memoryMb: number };

/**
 * Puts jobs that wait for no prerequisite any more where their `run_at` lets them be: `scheduled`, or `ready` and in
 * their queue; `anew` forgets what became of them before. The caller has locked their rows. The queue of a job's shape is
 * there since it was submitted.
 */
export async function release(
  tx: Transaction,
  queues: Queues,
  ids: string[],
  { anew = false }: { anew?: boolean } = {},
): Promise<void> {
  if (ids.length === 0) return;
  const { rows } = await tx.execute<Queued & Record<string, unknown>>(sql`
    update jobs set
      status = case when run_at > now() then 'scheduled' else 'ready' end,
      due_at = case when run_at > now() then run_at end,
      ready_at = case when run_at > now() then ready_at else now() end,
      queue_id = case when run_at > now() then null else gen_random_uuid() end,
      pending_dependencies = 0, converter_id = null, finished_at = null
      ${anew ? sql`, error = null, result = null, progress = null, failures = 0` : sql``}
    where ${inArray(jobs.id, ids)}
    returning queue_id as "queueId", rank, cpu_units as "cpuUnits", memory_mb as "memoryMb"`);
  await enqueue(
    tx,
    queues,
    rows.filter(({ queueId }) => queueId !== null),
  );
}

/** Sends the pg-boss jobs that stand for `ready` jobs, in the transaction that makes them ready. */
export async function enqueue(tx: Transaction, queues: Queues, ready: Queued[]): Promise<void> {
  for (const [name, sent] of Map.groupBy(ready, queueName)) await queues.send(tx, name, sent);
}
