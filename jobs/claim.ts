import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { findJobs, type JobRow } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { inGroup, readyGroups } from '../db/ready-jobs.ts';
import type { Priority } from '../db/schema.ts';
import { takeDrainLease } from './drain-lease.ts';
import type { Shares } from './fairness.ts';
import { findHeld, planClaim, type Waiting } from './plan-claim.ts';
import type { Reservation } from './room.ts';
import type { Shape } from './shape.ts';
import { transition } from './transition.ts';

export type Job = JobRow;

/** A job that a converter runs now. `waitedSeconds` passed since it became ready, by Postgres's clock. */
export type ClaimedJob = Job & { waitedSeconds: number };

/** Fences everything that an attempt writes: it owns its job while the job runs under this number. */
export type AttemptKey = Pick<Job, 'id' | 'attempt' | 'cpuUnits' | 'memoryMb'>;

/** The converter that claims. */
export interface Claimant {
  id: string;
  name: string;
  capacity: Shape;
  /** The job types that it knows; jobs of others are left to converters that know them. */
  types: readonly string[];
  running: Reservation[];
}

/** How a claim found the queue. */
export interface Claim {
  /** In the order in which they are to start. */
  started: ClaimedJob[];
  /** Jobs that it saw and left to others. */
  left: Waiting[];
  /** Ready jobs have types that this converter does not know. */
  hasUnknown: boolean;
}

/** The ready jobs that are looked at, of all groups together; the oldest of each group is among them. */
const MAX_LOOK = 1_024;
const MAX_LOOK_PER_GROUP = 32;

/**
 * Claims the ready jobs whose turn it is and that fit what the converter has free, at most `MAX_CLAIM`. Starts none when
 * nothing fits, other converters were faster, or this one makes room for a large job. Throws `ConverterLost` when this
 * converter was declared lost.
 */
export async function claimJobs(db: Database, queues: Queues, claimant: Claimant): Promise<Claim> {
  const { waiting, shares, hasUnknown } = await look(db, claimant);
  if (waiting.length === 0) return { started: [], left: [], hasUnknown };
  const converter = { capacity: claimant.capacity, running: claimant.running, now: Date.now() };
  const wanted = findHeld(waiting, converter);
  const held = wanted && (await takeDrainLease(db, claimant.id, wanted.startsAt)) ? wanted : undefined;
  const ids = planClaim(waiting, shares, converter, held);
  const planned = new Set(ids);
  const left = waiting.filter(({ id }) => !planned.has(id));
  if (ids.length === 0) return { started: [], left, hasUnknown };
  const compete = new Set(waiting.map(({ owner }) => owner)).size > 1;
  return { started: await take(db, queues, claimant, ids, compete ? shares.clock : null), left, hasUnknown };
}

/** The oldest ready jobs of each group that could ever fit this converter, and the turns of their owners. */
async function look(
  db: Database,
  { capacity, types }: Claimant,
): Promise<{ waiting: Waiting[]; shares: Shares; hasUnknown: boolean }> {
  const { rows: found } = await db.execute<{
    /** Null in the row that says that there are jobs of unknown types. */
    id: string | null;
    priority: Priority;
    owner: string;
    cpu_units: number;
    memory_mb: number;
    timeout_seconds: number;
    waited: number;
    turns: string | null;
    clock: string | null;
  }>(sql`
    ${readyGroups}
    (select first.id, groups.priority, groups.owner, groups.cpu_units, groups.memory_mb, first.timeout_seconds, first.waited,
      (select turns from fair_shares where fair_shares.owner = groups.owner) as turns,
      (select max(turns) - 1 from fair_shares) as clock
    from groups, lateral (
      select id, timeout_seconds, extract(epoch from now() - arrived_at)::float as waited from jobs where ${inGroup}
      order by arrived_at, id
      limit (select greatest(1, least(${MAX_LOOK_PER_GROUP}, ${MAX_LOOK} / count(*))) from groups)) first
    where cpu_units <= ${capacity.cpuUnits} and memory_mb <= ${capacity.memoryMb} and type = any(${sql.param(types)})
    limit ${MAX_LOOK})
    union all
    (select null, priority, owner, 0, 0, 0, 0, null, null from groups where type <> all(${sql.param(types)}) limit 1)`);
  const rows = found.flatMap(({ id, ...row }) => (id === null ? [] : [{ id, ...row }]));
  const turns = new Map(rows.map(({ owner, turns }) => [owner, Number(turns ?? 0)]));
  return {
    hasUnknown: rows.length < found.length,
    shares: { clock: Math.max(0, Number(rows[0]?.clock ?? 0)), turns },
    waiting: rows.map((row) => ({
      id: row.id,
      priority: row.priority,
      owner: row.owner,
      shape: { cpuUnits: row.cpu_units, memoryMb: row.memory_mb },
      timeoutSeconds: row.timeout_seconds,
      waitedSeconds: row.waited,
    })),
  };
}

/**
 * Starts those of the jobs that are still ready, in one transaction: their rows, attempts and uploads, the turns of their
 * owners (unless `clock` is null), and their pg-boss jobs.
 */
async function take(
  db: Database,
  queues: Queues,
  { id, name }: Claimant,
  ids: string[],
  clock: number | null,
): Promise<ClaimedJob[]> {
  return transition(db, async (tx) => {
    const { rows } = await tx.execute<{ id: string; queue_id: string | null; waited: number }>(sql`
      with live as (select id, name from converters where id = ${id} and status = 'live' for key share),
      free as (
        select jobs.id, jobs.queue_id from jobs, live where jobs.id = any(${sql.param(ids)}) and jobs.status = 'ready'
        for update of jobs skip locked),
      claimed as (
        update jobs set status = 'running', attempt = attempt + 1, converter_id = ${id}, queue_id = null, progress = null,
          started_at = coalesce(started_at, now())
        from free where jobs.id = free.id
        returning jobs.id, free.queue_id, attempt, jobs.cpu_units, jobs.memory_mb, upload_id, coalesce(owner, '') as owner, ready_at),
      attempts as (
        insert into job_attempts (job_id, attempt, converter_id, converter, cpu_units, memory_mb)
        select id, attempt, ${id}, ${name}, cpu_units, memory_mb from claimed),
      begun as (
        update uploads set status = 'processing'
        where id in (select upload_id from claimed) and status = 'queued'),
      shares as (
        insert into fair_shares (owner, turns) select owner, ${clock}::bigint + count(*) from claimed
        where ${clock}::bigint is not null group by owner order by owner
        on conflict (owner) do update
          set turns = greatest(fair_shares.turns, ${clock}::bigint) + excluded.turns - ${clock}::bigint, used_at = now())
      select live.id::text, null::uuid as queue_id, null::float as waited from live
      union all
      select id, queue_id, extract(epoch from clock_timestamp() - ready_at)::float from claimed`);
    if (rows.length === 0) throw new ConverterLost();
    const waited = new Map(rows.flatMap((row) => (row.queue_id === null ? [] : [[row.id, row.waited]])));
    await queues.remove(
      tx,
      rows.flatMap(({ queue_id }) => queue_id ?? []),
    );
    const started = await findJobs(
      tx,
      ids.filter((one) => waited.has(one)),
    );
    return started.map((job) => ({ ...job, waitedSeconds: waited.get(job.id) ?? 0 }));
  });
}

/** This converter's row no longer says `live`: others have taken over its jobs. */
export class ConverterLost extends Error {}
