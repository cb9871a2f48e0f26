import { and, eq, sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { jobs } from '../db/schema.ts';
import { placeDependants } from './dependants.ts';
import { domain } from './domain.ts';
import type { End } from './job.ts';
import { createJobWebhooks } from './webhooks.ts';

/** Every job ends here: first its row, then its webhook, its dependants, the rows of the domain, and its parent. */
export async function endJobs(tx: Transaction, queues: Queues, ends: End[]): Promise<void> {
  if (ends.length === 0) return;
  await markEnded(tx, ends);
  await createJobWebhooks(
    tx,
    ends.map(({ job: { id, notifyUrl }, status }) => ({ id, status, notifyUrl })),
  );
  await placeDependants(
    tx,
    queues,
    ends.map(({ job }) => job.id),
  );
  for (const end of ends) {
    await domain().onEnded(tx, end);
    if (end.job.parentId !== null) await endChild(tx, queues, end.job.parentId);
  }
}

/** Changes only the rows of the jobs themselves. */
export async function markEnded(tx: Transaction, ends: End[]): Promise<void> {
  const rows = ends.map(({ job, status, result, error }) => ({ id: job.id, status, result, error }));
  await tx.execute(sql`
    update jobs set status = ended.status, result = ended.result, error = ended.error, queue_id = null, converter_id = null,
      due_at = null, pending_children = 0, finished_at = now(),
      failures = failures + case when ended.status = 'failed' and jobs.converter_id is not null then 1 else 0 end
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as ended(id text, status text, result jsonb, error jsonb)
    where jobs.id = ended.id`);
}

/** A parent ends with its last child: it fails with the error of a failed child, or completes. */
async function endChild(tx: Transaction, queues: Queues, parentId: string): Promise<void> {
  const [parent] = await tx.select().from(jobs).where(eq(jobs.id, parentId)).for('update');
  if (parent === undefined || parent.status !== 'running') return;
  if (parent.pendingChildren > 1) {
    await tx
      .update(jobs)
      .set({ pendingChildren: parent.pendingChildren - 1 })
      .where(eq(jobs.id, parentId));
    return;
  }
  const [failed] = await tx
    .select({ error: jobs.error })
    .from(jobs)
    .where(and(eq(jobs.parentId, parentId), eq(jobs.status, 'failed')))
    .orderBy(jobs.id)
    .limit(1);
  await endJobs(tx, queues, [
    failed?.error ? { job: parent, status: 'failed', error: failed.error } : { job: parent, status: 'completed' },
  ]);
}
