import { type SQL, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { transition } from './transition.ts';

/** The maximum number of jobs of a type that run at the same time in all converters. */
export interface Concurrency {
  perType?: number;
  /** Applies to jobs with the same `concurrency_key`. */
  perKey?: number;
}

/** The starts of jobs of a type: `limit` at once, then one each `per_seconds / limit` seconds. */
export interface Rate {
  limit: number;
  per_seconds: number;
}

const tokensNow = sql`least(rate_limit, tokens
  + greatest(0, extract(epoch from clock_timestamp() - refilled_at)) * rate_limit / rate_seconds)`;

/** The number of jobs that a row of `job_types` lets start now; null means no limit. */
export const freeSlots: SQL = sql`case when paused_at is not null or is_relimited then 0 when per_type is null and rate_limit is null then null else greatest(0, least(
  case when per_type is not null then
    per_type - (select count(*) from jobs where jobs.type = job_types.type and jobs.status = 'running') end,
  floor(${tokensNow})))::int end`;

/**
 * Returns the planned jobs that the limits of their types let start, in order. Locks the types: until the transaction ends,
 * no other claim starts jobs of the limited ones, and none is paused.
 */
export async function withinLimits<Planned extends { type: string }>(
  tx: Transaction,
  planned: Planned[],
): Promise<Planned[]> {
  const types = [...new Set(planned.map(({ type }) => type))];
  const { rows: locked } = await tx.execute<{ type: string; limited: boolean }>(sql`
    with free as (
      select type, paused_at is not null or is_relimited as limited from job_types
      where type = any(${sql.param(types)}) and per_type is null and rate_limit is null for share),
    limited as (
      select type, true as limited from job_types
      where type = any(${sql.param(types)}) and (per_type is not null or rate_limit is not null)
      order by type for no key update)
    select * from free union all select * from limited`);
  const limited = locked.filter((row) => row.limited).map(({ type }) => type);
  if (limited.length === 0) return planned;
  // A statement after the lock sees the jobs that earlier claims started.
  const { rows } = await tx.execute<{ type: string; slots: number }>(
    sql`select type, ${freeSlots} as slots from job_types where type = any(${sql.param(limited)})`,
  );
  const left = new Map(rows.map(({ type, slots }) => [type, slots]));
  return planned.filter(({ type }) => {
    const slots = left.get(type) ?? Infinity;
    left.set(type, slots - 1);
    return slots > 0;
  });
}

/** Takes a token for each of the started jobs whose type has a rate limit. */
export async function spendTokens(tx: Transaction, started: { type: string }[]): Promise<void> {
  const types = started.map(({ type }) => type);
  await tx.execute(sql`
    update job_types set tokens = greatest(0, ${tokensNow} - spent.count), refilled_at = clock_timestamp()
    from (select type, count(*) from unnest(${sql.param(types)}::text[]) type group by type) spent
    where job_types.type = spent.type and rate_limit is not null`);
}

/** The maximum number of keys in one transaction. */
const BATCH = 100;

/**
 * Admits jobs to keys with free slots. Triggers normally do so, but they skip locked rows and ignore changes of limits.
 */
export async function admitMissed(db: Database): Promise<void> {
  const admit = (keys: SQL) =>
    transition(db, async (tx) => {
      const { rows } = await tx.execute<{ moved: number }>(sql`
        ${keys} select coalesce(sum(admit_jobs(type, concurrency_key)), 0)::int as moved from keys`);
      return rows[0]?.moved ?? 0;
    });
  while ((await admit(overfullKeys)) > 0);
  await db.execute(sql`
    update job_types set is_relimited = false where is_relimited and not exists (
      select from jobs where jobs.type = job_types.type and ${isActive}
      group by concurrency_key having count(*) > per_key and bool_or(status = 'ready'))`);
  while ((await admit(roomyKeys)) > 0);
}

const isActive = sql`concurrency_key is not null and not throttled and status in ('ready', 'running')`;

/** Keys of types with changed limits that have too many jobs, some of which have not started. */
const overfullKeys = sql`
  with keys as (
    select type, concurrency_key from jobs join job_types using (type)
    where is_relimited and ${isActive}
    group by type, concurrency_key, per_key having count(*) > per_key and bool_or(status = 'ready')
    order by type, concurrency_key limit ${BATCH})`;

/** Keys with free slots and throttled jobs. */
const roomyKeys = sql`
  with recursive throttled as (
    (select type, concurrency_key from jobs where throttled order by type, concurrency_key limit 1)
    union all
    select next.* from throttled, lateral (
      select type, concurrency_key from jobs
      where jobs.throttled and (type, concurrency_key) > (throttled.type, throttled.concurrency_key)
      order by type, concurrency_key limit 1) next),
  keys as (
    select type, concurrency_key from throttled left join job_types using (type)
    where per_key is null or per_key > (
      select count(*) from jobs where jobs.type = throttled.type and jobs.concurrency_key = throttled.concurrency_key
        and not jobs.throttled and status in ('ready', 'running'))
    limit ${BATCH})`;
