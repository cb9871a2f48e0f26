import { sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';

interface ReleaseOptions {
  /** Deletes the outcome of earlier attempts. */
  reset?: boolean;
  /** A job that was returned keeps its place in the queue; any other job arrives now. */
  keepPlace?: boolean;
}

/**
 * Makes jobs that wait for no dependency `scheduled` while their `run_at` is in the future, and `ready` otherwise: those
 * enter the queue in the order of `ids`. The caller holds the locks of their rows.
 */
export async function release(
  tx: Transaction,
  queues: Queues,
  ids: string[],
  { reset = false, keepPlace = false }: ReleaseOptions = {},
): Promise<void> {
  if (ids.length === 0) return;
  const { rows } = await tx.execute<{ queue_id: string | null }>(sql`
    update jobs set
      status = case when run_at > now() then 'scheduled' else 'ready' end,
      due_at = case when run_at > now() then run_at end,
      ready_at = case when run_at > now() then ready_at else now() end,
      queue_id = case when run_at > now() then null else gen_random_uuid() end,
      pending_dependencies = 0, converter_id = null, finished_at = null
      ${keepPlace ? sql`` : sql`, arrived_at = now() + given.place * interval '1 microsecond'`}
      ${reset ? sql`, error = null, result = null, progress = null, failures = 0` : sql``}
    from unnest(${sql.param(ids)}::text[]) with ordinality given (id, place) where jobs.id = given.id
    returning queue_id`);
  await queues.send(
    tx,
    rows.flatMap(({ queue_id }) => queue_id ?? []),
  );
}
