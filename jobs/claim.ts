import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { inGroup, readyGroups } from '../db/ready-jobs.ts';
import { rowFromJson } from '../db/rows.ts';
import { jobs, type Priority } from '../db/schema.ts';
import { domain } from './domain.ts';
import { takeDrainLease } from './drain-lease.ts';
import type { Shares } from './fairness.ts';
import type { Reservation } from './free-capacity.ts';
import type { Job } from './job.ts';
import { freeSlots, spendTokens, withinLimits } from './limits.ts';
import { findHeld, MAX_CLAIM, planClaim, type Slots, type Waiting } from './plan-claim.ts';
import type { Shape } from './shape.ts';
import { transition } from './transition.ts';

/** A job that a converter has started. `waitedSeconds` is the time since it became ready, by the clock of Postgres. */
export type ClaimedJob = Job & { waitedSeconds: number; hasDependencies: boolean };

/** Identifies an attempt, which owns its job while the job runs under this number; `ownedBy` guards its writes. */
export type AttemptKey = Pick<Job, 'id' | 'attempt' | 'cpuUnits' | 'memoryMb'>;

/** The converter that claims. */
export interface Claimant {
  id: string;
  name: string;
  capacity: Shape;
  /** The job types that it knows. */
  types: readonly string[];
  running: Reservation[];
}

/** The result of a claim. */
export interface Claim {
  /** Ordered by start. */
  started: ClaimedJob[];
  /** Ready jobs that it did not start. */
  left: Waiting[];
  /** There are other ready jobs, of types that this converter does not know or that are at their limits. */
  hasOthers: boolean;
  /** Another claim would start no more jobs. */
  isComplete: boolean;
}

/** The maximum number of ready jobs that a claim reads; the oldest of each group is among them. */
const MAX_READ = 1_024;
const MAX_READ_PER_GROUP = 32;

/**
 * Starts at most `MAX_CLAIM` ready jobs that are next and fit the free capacity of the converter. Starts none when none
 * fits, other converters were faster, or this converter drains for a large job. Throws `ConverterLost` when this converter
 * was declared lost.
 */
export async function claimJobs(db: Database, queues: Queues, claimant: Claimant): Promise<Claim> {
  const { waiting, shares, slots, hasOthers } = await readQueue(db, claimant);
  if (waiting.length === 0) return { started: [], left: [], hasOthers, isComplete: true };
  const converter = { capacity: claimant.capacity, running: claimant.running, now: Date.now() };
  const wanted = findHeld(waiting, converter);
  const held = wanted && (await takeDrainLease(db, claimant.id, wanted.startsAt)) ? wanted : undefined;
  const planned = planClaim(waiting, shares, converter, held, slots);
  const left = waiting.filter((job) => !planned.includes(job));
  if (planned.length === 0) return { started: [], left, hasOthers, isComplete: true };
  const hasCompetition = new Set(waiting.map(({ owner }) => owner)).size > 1;
  const isLimited = planned.some(({ type }) => slots.has(type));
  const plan = { planned, isLimited, clock: hasCompetition ? shares.clock : null };
  const started = await start(db, queues, claimant, plan);
  return { started, left, hasOthers, isComplete: started.length === planned.length && planned.length < MAX_CLAIM };
}

/**
 * Reads the oldest ready jobs of each group that can fit this converter and whose type may start jobs, the turns of their
 * owners, and the free slots of their types.
 */
async function readQueue(
  db: Database,
  { capacity, types }: Claimant,
): Promise<{ waiting: Waiting[]; shares: Shares; slots: Slots; hasOthers: boolean }> {
  const { rows: found } = await db.execute<{
    /** Null in a row that stands for jobs that may not start here. */
    id: string | null;
    priority: Priority;
    owner: string;
    type: string;
    slots: number | null;
    cpu_units: number;
    memory_mb: number;
    timeout_seconds: number;
    waited: number;
    turns: string | null;
    clock: string | null;
  }>(sql`
    ${readyGroups},
    limits as materialized (
      select type, ${freeSlots} as slots from job_types where type = any(${sql.param(types)}))
    (select first.id, groups.priority, groups.owner, groups.type, limits.slots, groups.cpu_units, groups.memory_mb,
      first.timeout_seconds, first.waited,
      (select turns from fair_shares where fair_shares.owner = groups.owner) as turns,
      (select max(turns) - 1 from fair_shares) as clock
    from groups left join limits on limits.type = groups.type, lateral (
      select id, timeout_seconds, extract(epoch from now() - arrived_at)::float as waited from jobs where ${inGroup}
      order by arrived_at, id
      limit (select greatest(1, least(${MAX_READ_PER_GROUP}, ${MAX_READ} / count(*))) from groups)) first
    where cpu_units <= ${capacity.cpuUnits} and memory_mb <= ${capacity.memoryMb} and groups.type = any(${sql.param(types)})
      and not throttled and coalesce(limits.slots, 1) > 0
    limit ${MAX_READ})
    union all
    (select null, priority, owner, groups.type, null, 0, 0, 0, 0, null, null from groups left join limits on limits.type = groups.type
      where groups.type <> all(${sql.param(types)}) or limits.slots = 0 limit 1)`);
  const rows = found.flatMap(({ id, ...row }) => (id === null ? [] : [{ id, ...row }]));
  const turns = new Map(rows.map(({ owner, turns }) => [owner, Number(turns ?? 0)]));
  return {
    hasOthers: rows.length < found.length,
    slots: new Map(rows.flatMap(({ type, slots }) => (slots === null ? [] : [[type, slots]]))),
    shares: { clock: Math.max(0, Number(rows[0]?.clock ?? 0)), turns },
    waiting: rows.map((row) => ({
      id: row.id,
      priority: row.priority,
      owner: row.owner,
      type: row.type,
      shape: { cpuUnits: row.cpu_units, memoryMb: row.memory_mb },
      timeoutSeconds: row.timeout_seconds,
      waitedSeconds: row.waited,
    })),
  };
}

/** A started job; `job` is null in the only row when other converters started all jobs. */
type Started = { job: Record<string, unknown> | null; queue_id: string; has_dependencies: boolean; waited: number };

interface Plan {
  planned: Waiting[];
  /** A type among them has limits. */
  isLimited: boolean;
  /** The clock of the owners' turns; null when only one owner waits. */
  clock: number | null;
}

/**
 * Starts the planned jobs that are still ready and within the limits of their types, in one transaction: their rows,
 * attempts, rows of the domain, the turns of their owners, and their pg-boss jobs. Starts no job of a type that was paused
 * or limited after `readQueue`.
 */
async function start(
  db: Database,
  queues: Queues,
  { id, name }: Claimant,
  { planned, isLimited, clock }: Plan,
): Promise<ClaimedJob[]> {
  const types = [...new Set(planned.map(({ type }) => type))];
  return transition(db, async (tx) => {
    const ids = (isLimited ? await withinLimits(tx, planned) : planned).map((job) => job.id);
    const { rows } = await tx.execute<Started>(sql`
      with live as (select id, name from converters where id = ${id} and status = 'live' for key share),
      locked_types as materialized (select * from job_types where type = any(${sql.param(types)}) for share),
      shut as (
        select type from locked_types
        where not ${isLimited}::boolean
          and (paused_at is not null or is_relimited or per_type is not null or rate_limit is not null)),
      free as (
        select jobs.id, jobs.queue_id from jobs, live
        where jobs.id = any(${sql.param(ids)}) and jobs.status = 'ready' and not throttled and jobs.type not in (select type from shut)
        for update of jobs skip locked),
      claimed as (
        update jobs set status = 'running', attempt = attempt + 1, converter_id = ${id}, queue_id = null, progress = null,
          started_at = coalesce(started_at, now())
        from free where jobs.id = free.id
        returning jobs.*, free.queue_id as taken_id,
          exists (select from job_dependencies edge where edge.job_id = jobs.id) as has_dependencies),
      attempts as (
        insert into job_attempts (job_id, attempt, converter_id, converter, cpu_units, memory_mb)
        select id, attempt, ${id}, ${name}, cpu_units, memory_mb from claimed),
      begun as (${domain().whenStarted}),
      shares as (
        insert into fair_shares (owner, turns) select coalesce(owner, ''), ${clock}::bigint + count(*) from claimed
        where ${clock}::bigint is not null group by 1 order by 1
        on conflict (owner) do update
          set turns = greatest(fair_shares.turns, ${clock}::bigint) + excluded.turns - ${clock}::bigint, used_at = now())
      select to_jsonb(claimed) as job, taken_id as queue_id, has_dependencies, extract(epoch from clock_timestamp() - ready_at)::float as waited
      from live left join claimed on true`);
    if (rows.length === 0) throw new ConverterLost();
    const started = rows.flatMap(({ job, queue_id, has_dependencies, waited }) =>
      job === null
        ? []
        : [{ ...rowFromJson(jobs, job), queue_id, hasDependencies: has_dependencies, waitedSeconds: waited }],
    );
    await queues.remove(
      tx,
      started.map(({ queue_id }) => queue_id),
    );
    if (isLimited) await spendTokens(tx, started);
    const order = new Map(ids.map((one, index) => [one, index]));
    return started
      .map(({ queue_id: _, ...job }) => job)
      .sort((a, b) => (order.get(a.id) ?? 0) - (order.get(b.id) ?? 0));
  });
}

/** The converter is no longer `live`: its jobs were given to others. */
export class ConverterLost extends Error {}
