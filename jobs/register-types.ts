import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Concurrency, Rate } from './limits.ts';
import { transition } from './transition.ts';

/** A job type and the limits of its task. */
export interface LimitedType {
  type: string;
  concurrency?: Concurrency;
  rate?: Rate;
}

/**
 * Stores the limits of all types. No job of a type whose `per_key` has changed starts until `admitMissed` has applied the
 * new limit to the jobs that wait.
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
