import { type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { isOutage } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import type { JobStatus, RunOn } from '../db/schema.ts';
import type { Logger } from '../runtime/log.ts';
import { type Edges, type Place, placeOf } from './dependencies.ts';
import { release } from './release.ts';
import { isRepeatable, transition } from './transition.ts';
import { createJobWebhooks } from './webhooks.ts';

/*
 * Updates dependants when a prerequisite ends, runs again or is deleted. Triggers queue each change in `pending_outcomes`.
 * This module writes it to the edges, and places each dependant by all of its edges, so that changes may be applied late,
 * twice or in any order. A dependant that has started keeps its edges.
 *
 * Lock rule, without which a dependant could stay blocked for ever: a transaction that makes a job `blocked` locks its
 * prerequisites FOR SHARE; a transaction that ends a job updates it first and reads its dependants in a later statement.
 */

interface Bound {
  rows: number;
  levels: number;
  /** No level begins after this time. */
  ms: number;
}

/** Applies in the transaction that changes a prerequisite, because a client waits for it. */
const MAX_AT_ONCE: Bound = { rows: 1_000, levels: 16, ms: 1_000 };
/** Applies in a transaction of the leader. */
const MAX_IN_STEP: Bound = { rows: 1_000, levels: 1_000, ms: 500 };
/** The maximum number of prerequisites in one step. */
const MAX_PREREQUISITES = 100;
/** A prerequisite whose dependants cannot be placed is postponed by this. */
const POSTPONED_SECONDS = 60;

/** The condition that a job is blocked, or ended because of its prerequisites. */
export const waits = sql`(jobs.status = 'blocked'
  or (jobs.status in ('failed', 'cancelled') and coalesce(jobs.error->>'code', '') in ('dependency_failed', 'dependency_completed')))`;

/**
 * Places the dependants of jobs that this transaction has changed, up to a bound. `advanceDependants` places the rest, and
 * those that fail here, so that a dependant never prevents the end of its prerequisite.
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
    // Any other error occurs again in a step of the leader, which logs it.
    if (isOutage(error) || isRepeatable(error)) throw error;
  }
}

/**
 * Places the next dependants that transactions have left. Returns true if some may remain. Postpones a prerequisite whose
 * dependants cannot be placed, so that it does not delay others.
 */
export async function advanceDependants(db: Database, queues: Queues, log: Logger): Promise<boolean> {
  const due = sql`select job_id as id from pending_outcomes where due_at <= clock_timestamp() order by due_at`;
  const { rows } = await db.execute<{ id: string }>(sql`${due} limit ${MAX_PREREQUISITES}`);
  const ids = rows.map(({ id }) => id);
  if (ids.length === 0) return false;
  try {
    return await advance(db, queues, ids);
  } catch (error) {
    // Any other error occurs again for a single prerequisite, which is logged.
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
    // A later change of a prerequisite waits for this step.
    const { rows } = await tx.execute<{ id: string }>(sql`
      select job_id as id from pending_outcomes where job_id = any(${sql.param(ids)}) for update skip locked`);
    if (rows.length === 0) return false;
    const held = rows.map(({ id }) => id);
    await passOn(tx, queues, held, MAX_IN_STEP);
    return true;
  });
}

/** Updates the dependants of these jobs, level by level. */
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
    // A trigger queues the outcomes of the next level, beside those of this level that remain.
    if (isAll) await deleteOutcomes(tx, level);
    level = next;
  }
}

/** Locks up to `limit` dependants whose edges lack a change of these jobs; returns an id for each such edge. */
async function lockDependants(tx: Transaction, changed: string[], limit: number): Promise<string[]> {
  const { rows } = await tx.execute<{ id: string }>(sql`
    select jobs.id from pending_outcomes pending
    join job_dependencies edge on edge.depends_on = pending.job_id and edge.outcome is distinct from pending.outcome
    join jobs on jobs.id = edge.job_id
    where pending.job_id = any(${sql.param(changed)}) and ${waits}
    order by jobs.id limit ${limit} for update of jobs`);
  return rows.map(({ id }) => id);
}

async function deleteOutcomes(tx: Transaction, ids: string[]): Promise<void> {
  await tx.execute(sql`delete from pending_outcomes where job_id = any(${sql.param(ids)})`);
}

interface Dependant extends Edges, Record<string, unknown> {
  id: string;
  status: JobStatus;
  runOn: RunOn;
  notifyUrl: string | null;
}

/** Writes the outcomes of `changed` to the edges of these dependants, and places them. Returns those that ended or wait again. */
async function place(tx: Transaction, queues: Queues, changed: string[], dependants: string[]): Promise<string[]> {
  if (dependants.length === 0) return [];
  const { rows } = await tx.execute<Dependant>(sql`
    with pending as (select job_id, outcome from pending_outcomes where job_id = any(${sql.param(changed)})),
    written as (
      update job_dependencies edge set outcome = pending.outcome from pending
      where edge.depends_on = pending.job_id and edge.job_id = any(${sql.param(dependants)}) and edge.outcome is distinct from pending.outcome),
    edges as (
      select edge.job_id, edge.depends_on, case when pending.job_id is null then edge.outcome else pending.outcome end as outcome
      from job_dependencies edge left join pending on pending.job_id = edge.depends_on
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

/** Selects the state of the prerequisites of each job among these edges. */
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

/** Blocks jobs with open prerequisites. Returns the ids of those that had ended. */
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

/** Ends blocked jobs whose prerequisites require it. Returns their ids. */
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
