import { type SQL, sql } from 'drizzle-orm';
import { type Database, isOutage, type Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import type { JobStatus, RunOn } from '../db/schema.ts';
import type { Logger } from '../runtime/log.ts';
import { type Edges, type Place, placeOf } from './dependencies.ts';
import { release } from './release.ts';
import { isRepeatable, transition } from './transition.ts';
import { createJobWebhooks } from './webhooks.ts';

/**
 * Passes on to dependants that a prerequisite has ended, runs again or was deleted. Triggers queue each such change in
 * `pending_outcomes`; here it is written to the edges, and each dependant is placed by a count of all its edges. So a
 * change may be passed on late, twice or in any order. A dependant that has started keeps the edges it started with.
 *
 * Locks against the race that leaves a dependant blocked for ever: a transaction that makes a job `blocked` holds its
 * prerequisites FOR SHARE; a transaction that ends a job updates it first and reads its dependants in a later statement.
 */

interface Bound {
  rows: number;
  levels: number;
  /** No further level begins after this time. */
  ms: number;
}

/** In the transaction that changed a prerequisite, which others wait for. */
const MAX_AT_ONCE: Bound = { rows: 1_000, levels: 16, ms: 1_000 };
/** In a transaction of the leader. */
const MAX_IN_STEP: Bound = { rows: 1_000, levels: 1_000, ms: 500 };
/** Prerequisites whose dependants one step looks for. */
const MAX_PREREQUISITES = 100;
/** A prerequisite whose dependants cannot be written is left alone for so long. */
const POSTPONED_SECONDS = 60;

/** Jobs that have not started, or have ended for their prerequisites alone. */
export const waits = sql`(jobs.status = 'blocked'
  or (jobs.status in ('failed', 'cancelled') and coalesce(jobs.error->>'code', '') in ('dependency_failed', 'dependency_completed')))`;

/**
 * Places the dependants of jobs that this transaction has changed, up to a bound; `advanceDependants` places the rest.
 * Dependants that cannot be written are left to it, too, so that they never keep their prerequisite from ending.
 */
export async function placeDependants(tx: Transaction, queues: Queues, changed: string[]): Promise<void> {
  if (changed.length === 0) return;
  const { rowCount } = await tx.execute(
    sql`select 1 from pending_outcomes where job_id = any(${sql.param(changed)}) limit 1`,
  );
  if (rowCount === 0) return;
  try {
    await tx.transaction((nested) => passOn(nested, queues, changed, MAX_AT_ONCE));
  } catch (error) {
    // Any other error comes again in a step of the leader, which logs it.
    if (isOutage(error) || isRepeatable(error)) throw error;
  }
}

/**
 * One step of the work that transactions have left: gives whether there may be more. A prerequisite whose dependants
 * cannot be written is postponed, so that it does not hold up others.
 */
export async function advanceDependants(db: Database, queues: Queues, log: Logger): Promise<boolean> {
  const due = sql`select job_id as id from pending_outcomes where due_at <= clock_timestamp() order by due_at`;
  const { rows } = await db.execute<{ id: string }>(sql`${due} limit ${MAX_PREREQUISITES}`);
  const ids = rows.map(({ id }) => id);
  if (ids.length === 0) return false;
  try {
    return await advance(db, queues, ids);
  } catch (error) {
    if (isOutage(error)) throw error;
  }
  for (const id of ids) {
    try {
      await advance(db, queues, [id]);
    } catch (error) {
      if (isOutage(error)) throw error;
      log.error({ err: error, job: id }, 'dependants of a job could not be placed');
      await db.execute(sql`
        update pending_outcomes set due_at = clock_timestamp() + make_interval(secs => ${POSTPONED_SECONDS}) where job_id = ${id}`);
    }
  }
  return true;
}

function advance(db: Database, queues: Queues, ids: string[]): Promise<boolean> {
  return transition(db, async (tx) => {
    // A change of a prerequisite waits for the step that passes on the one before it.
    const { rows } = await tx.execute<{ id: string }>(sql`
      select job_id as id from pending_outcomes where job_id = any(${sql.param(ids)}) for update skip locked`);
    if (rows.length === 0) return false;
    const held = rows.map(({ id }) => id);
    await passOn(tx, queues, held, MAX_IN_STEP);
    return true;
  });
}

/** Walks from these jobs to their dependants, level by level. */
async function passOn(tx: Transaction, queues: Queues, changed: string[], bound: Bound): Promise<void> {
  const deadline = performance.now() + bound.ms;
  let rows = bound.rows;
  let level = changed;
  for (let depth = 0; level.length > 0 && rows > 0; depth++) {
    if (depth === bound.levels || performance.now() > deadline) return;
    const dependants = await lockDependants(tx, level, rows);
    const isAll = dependants.length < rows;
    rows -= dependants.length;
    const next = await place(tx, queues, level, [...new Set(dependants)]);
    // The outcomes of the next level are queued by the trigger, with those of this level that are not passed on.
    if (isAll) await forgetOutcomes(tx, level);
    level = next;
  }
}

/** Locks up to `limit` of the dependants that have yet to learn of a change of these jobs; one comes once for each. */
async function lockDependants(tx: Transaction, changed: string[], limit: number): Promise<string[]> {
  const { rows } = await tx.execute<{ id: string }>(sql`
    select jobs.id from pending_outcomes told
    join job_dependencies edge on edge.depends_on = told.job_id and edge.outcome is distinct from told.outcome
    join jobs on jobs.id = edge.job_id
    where told.job_id = any(${sql.param(changed)}) and ${waits}
    order by jobs.id limit ${limit} for update of jobs`);
  return rows.map(({ id }) => id);
}

async function forgetOutcomes(tx: Transaction, ids: string[]): Promise<void> {
  await tx.execute(sql`delete from pending_outcomes where job_id = any(${sql.param(ids)})`);
}

interface Dependant extends Edges, Record<string, unknown> {
  id: string;
  status: JobStatus;
  runOn: RunOn;
  notifyUrl: string | null;
}

/** Writes the outcomes of `changed` to the edges of these dependants, and places them. Gives those that ended or wait again. */
async function place(tx: Transaction, queues: Queues, changed: string[], dependants: string[]): Promise<string[]> {
  if (dependants.length === 0) return [];
  const { rows } = await tx.execute<Dependant>(sql`
    with told as (select job_id, outcome from pending_outcomes where job_id = any(${sql.param(changed)})),
    written as (
      update job_dependencies edge set outcome = told.outcome from told
      where edge.depends_on = told.job_id and edge.job_id = any(${sql.param(dependants)}) and edge.outcome is distinct from told.outcome),
    edges as (
      select edge.job_id, edge.depends_on, case when told.job_id is null then edge.outcome else told.outcome end as outcome
      from job_dependencies edge left join told on told.job_id = edge.depends_on
      where edge.job_id = any(${sql.param(dependants)})),
    counted as (${countEdges(sql`edges`)})
    select id, status, run_on as "runOn", notify_url as "notifyUrl", open, failed from jobs join counted on job_id = id`);
  const placed = rows.map((job) => ({ job, place: placeOf(job.runOn, job) }));
  const released = placed.filter(({ place }) => place.status === 'free').map(({ job }) => job);
  const idsOf = (list: Dependant[]) => list.map(({ id }) => id);
  const isBlocked = ({ status }: Dependant) => status === 'blocked';
  const restored = released.filter((job) => !isBlocked(job));
  await release(tx, queues, idsOf(released.filter(isBlocked)));
  await release(tx, queues, idsOf(restored), { reset: true });
  return [...idsOf(restored), ...(await block(tx, placed)), ...(await end(tx, placed))];
}

/** For each job among these edges: how many prerequisites have not ended, and the first that did not complete. */
export function countEdges(edges: SQL): SQL {
  return sql`
    select job_id, count(*) filter (where outcome is null)::int as open,
      (array_agg(jsonb_build_object('id', depends_on, 'outcome', outcome) order by depends_on)
        filter (where outcome <> 'completed'))[1] as failed
    from ${edges} group by job_id`;
}

interface Placed {
  job: Dependant;
  place: Place;
}

/** Gives the ids of those that had ended, and wait again. */
async function block(tx: Transaction, placed: Placed[]): Promise<string[]> {
  const blocked = placed.flatMap(({ job, place }) =>
    place.status === 'blocked' ? [{ id: job.id, pending: place.pending, ended: job.status !== 'blocked' }] : [],
  );
  if (blocked.length > 0) {
    await tx.execute(sql`
      update jobs set status = 'blocked', pending_dependencies = x.pending, error = null, finished_at = null,
        failures = case when x.ended then 0 else failures end
      from jsonb_to_recordset(${JSON.stringify(blocked)}::jsonb) as x(id text, pending int, ended boolean)
      where jobs.id = x.id and (x.ended or jobs.pending_dependencies <> x.pending)`);
  }
  return blocked.filter(({ ended }) => ended).map(({ id }) => id);
}

/** Those that had ended for their prerequisites already stay as they are. */
async function end(tx: Transaction, placed: Placed[]): Promise<string[]> {
  const ended = placed.flatMap(({ job, place }) =>
    job.status === 'blocked' && (place.status === 'failed' || place.status === 'cancelled')
      ? [{ id: job.id, notifyUrl: job.notifyUrl, status: place.status, error: place.error }]
      : [],
  );
  if (ended.length === 0) return [];
  await tx.execute(sql`
    update jobs set status = x.status, error = x.error, finished_at = now()
    from jsonb_to_recordset(${JSON.stringify(ended)}::jsonb) as x(id text, status text, error jsonb)
    where jobs.id = x.id`);
  await createJobWebhooks(tx, ended);
  return ended.map(({ id }) => id);
}
