import { sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { AppError, type PublicError } from '../errors.ts';
import { release } from './ready.ts';
import { notifyEnded } from './webhooks.ts';

/**
 * Locks against the race that leaves a dependant blocked for ever: whoever makes a job `blocked` holds its prerequisites
 * FOR SHARE; whoever ends a job updates it first and reads its dependants in a later statement. So dependants are walked
 * level by level, each level locked before the edges of the next are read.
 */

/**
 * A cycle in `depends_on`, as the ids along it with the first one repeated at the end, or undefined.
 * Edges to ids that are no keys are left out.
 */
export function findCycle(dependsOn: Map<string, string[]>): string[] | undefined {
  const done = new Set<string>();
  for (const start of dependsOn.keys()) {
    // The path under way; its last id's prerequisites are still to be looked at.
    const path: { id: string; left: string[] }[] = [];
    const enter = (id: string) => path.push({ id, left: [...(dependsOn.get(id) ?? [])].reverse() });
    if (!done.has(start)) enter(start);
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const next = top.left.pop();
      if (next === undefined) {
        done.add(top.id);
        path.pop();
        continue;
      }
      const back = path.findIndex(({ id }) => id === next);
      if (back >= 0) return [...path.slice(back).map(({ id }) => id), next];
      if (!done.has(next)) enter(next);
    }
  }
}

/** Throws `dependency_cycle` (422) for jobs that wait for each other. */
export function refuseCycle(dependsOn: Map<string, string[]>): void {
  const cycle = findCycle(dependsOn);
  if (cycle === undefined) return;
  const message = `these jobs wait for each other: ${cycle.join(' -> ')}`;
  throw new AppError('dependency_cycle', message, { status: 422, details: { cycle } });
}

/** The error of a job that will not run because a prerequisite ended otherwise than `completed`. */
export function dependencyFailed(prerequisite: string, status: 'failed' | 'cancelled'): PublicError {
  const ended = status === 'failed' ? 'has failed' : 'was cancelled';
  return { code: 'dependency_failed', message: `its prerequisite ${prerequisite} ${ended}` };
}

/** These jobs have completed: the counters of their dependants fall, and those at zero are released. */
export async function releaseDependants(tx: Transaction, queues: Queues, completed: string[]): Promise<void> {
  const { rows } = await tx.execute<{ id: string; left: number }>(sql`
    select jobs.id, jobs.pending_dependencies - fallen.count as left
    from (select job_id, count(*)::int from job_dependencies where depends_on = any(${sql.param(completed)}) group by job_id) fallen
    join jobs on jobs.id = fallen.job_id
    where jobs.status = 'blocked' order by jobs.id for update of jobs`);
  if (rows.length === 0) return;
  const free = rows.filter(({ left }) => left === 0);
  const stillBlocked = rows.filter(({ left }) => left > 0);
  await release(
    tx,
    queues,
    free.map(({ id }) => id),
  );
  if (stillBlocked.length > 0) {
    await tx.execute(sql`
      update jobs set pending_dependencies = x.left from jsonb_to_recordset(${JSON.stringify(stillBlocked)}::jsonb) as x(id text, "left" int)
      where jobs.id = x.id`);
  }
}

/** These jobs have ended otherwise: all that wait for them, directly or not, fail with `dependency_failed`. */
export async function failDependants(tx: Transaction, queues: Queues, ended: string[]): Promise<void> {
  for (let level = ended; level.length > 0; ) {
    const { rows } = await tx.execute<{ id: string; notifyUrl: string | null }>(sql`
      update jobs set status = 'failed', finished_at = now(), error = jsonb_build_object('code', 'dependency_failed',
        'message', format('its prerequisite %s %s', cause.id, case cause.status when 'failed' then 'has failed' else 'was cancelled' end))
      from job_dependencies edge join jobs cause on cause.id = edge.depends_on
      where edge.depends_on = any(${sql.param(level)}) and jobs.id = edge.job_id and jobs.status = 'blocked'
      returning jobs.id, jobs.notify_url as "notifyUrl"`);
    await notifyEnded(
      tx,
      queues,
      rows.map(({ id, notifyUrl }) => ({ jobId: id, status: 'failed', notifyUrl })),
    );
    level = rows.map(({ id }) => id);
  }
}

/**
 * These jobs run again: what failed because of them, directly or not, waits again, unless another of its prerequisites
 * has failed as well. Gives how many jobs that were.
 */
export async function restoreDependants(tx: Transaction, retried: string[]): Promise<number> {
  let restored = 0;
  for (let level = retried; level.length > 0; ) {
    await tx.execute(sql`
      select 1 from jobs where id in (
        select every.depends_on from job_dependencies every join job_dependencies edge using (job_id)
        where edge.depends_on = any(${sql.param(level)}))
      order by id for share`);
    const { rows } = await tx.execute<{ id: string }>(sql`
      update jobs set status = 'blocked', error = null, finished_at = null, failures = 0,
        pending_dependencies = (select count(*) from job_dependencies edge join jobs prerequisite on prerequisite.id = edge.depends_on
          where edge.job_id = jobs.id and prerequisite.status <> 'completed')
      where id in (select job_id from job_dependencies where depends_on = any(${sql.param(level)}))
        and status = 'failed' and error->>'code' = 'dependency_failed'
        and not exists (select 1 from job_dependencies edge join jobs prerequisite on prerequisite.id = edge.depends_on
          where edge.job_id = jobs.id and prerequisite.status in ('failed', 'cancelled'))
      returning id`);
    level = rows.map(({ id }) => id);
    restored += level.length;
  }
  return restored;
}
