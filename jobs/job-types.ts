import { eq, isNotNull, sql } from 'drizzle-orm';
import type { Database, Queryable } from '../db/client.ts';
import { jobTypes } from '../db/schema.ts';
import type { Concurrency, Rate } from './limits.ts';
import { READY_CHANNEL } from './running.ts';
import { transition } from './transition.ts';

/** A task, as far as its jobs have limits. */
export interface LimitedType {
  type: string;
  concurrency?: Concurrency;
  rate?: Rate;
}

/**
 * Stores the limits of all types. No job of a type whose `per_key` has changed starts until `admitMissed` has fitted those
 * that wait to it.
 */
export async function registerJobTypes(db: Database, types: Iterable<LimitedType>): Promise<void> {
  const rows = [...types].map(({ type, concurrency, rate }) => ({
    type,
    per_type: concurrency?.perType,
    per_key: concurrency?.perKey,
    rate_limit: rate?.limit,
    rate_seconds: rate?.per_seconds,
  }));
  await transition(db, (tx) =>
    tx.execute(sql`
      insert into job_types (type, per_type, per_key, rate_limit, rate_seconds, tokens, is_relimited)
      select type, per_type, per_key, rate_limit, rate_seconds, coalesce(rate_limit, 0),
        per_key is not null and exists (
          select from jobs where jobs.type = given.type and status = 'ready' and concurrency_key is not null)
      from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
        as given(type text, per_type int, per_key int, rate_limit int, rate_seconds int) order by type
      on conflict (type) do update set per_type = excluded.per_type, per_key = excluded.per_key,
        rate_limit = excluded.rate_limit, rate_seconds = excluded.rate_seconds, limited_at = clock_timestamp(),
        is_relimited = job_types.is_relimited or job_types.per_key is distinct from excluded.per_key,
        tokens = least(case when job_types.rate_limit is null then excluded.rate_limit else job_types.tokens end, excluded.tokens)
      where (job_types.per_type, job_types.per_key, job_types.rate_limit, job_types.rate_seconds)
        is distinct from (excluded.per_type, excluded.per_key, excluded.rate_limit, excluded.rate_seconds)`),
  );
}

/** From here on no job of the type starts; those that run go on. A claim that has begun ends first. */
export async function pauseJobType(db: Database, type: string): Promise<void> {
  await db
    .insert(jobTypes)
    .values({ type, pausedAt: sql`now()` })
    .onConflictDoUpdate({ target: jobTypes.type, set: { pausedAt: sql`coalesce(${jobTypes.pausedAt}, now())` } });
}

export async function resumeJobType(db: Database, type: string): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.update(jobTypes).set({ pausedAt: null }).where(eq(jobTypes.type, type));
    await tx.execute(sql`select pg_notify(${READY_CHANNEL}, '')`);
  });
}

/** Since when each of these types is paused; those that are not paused are left out. */
export async function pausedJobTypes(db: Queryable): Promise<Map<string, Date>> {
  const rows = await db
    .select({ type: jobTypes.type, pausedAt: jobTypes.pausedAt })
    .from(jobTypes)
    .where(isNotNull(jobTypes.pausedAt));
  return new Map(rows.flatMap(({ type, pausedAt }) => (pausedAt === null ? [] : [[type, pausedAt]])));
}
