import { sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { NewJob } from './submit.ts';
import { RetryTransaction } from './transition.ts';

/** A job with a `unique` key: until the key expires, requests with the same owner, type and key get this job. */
type Keyed = NewJob & { id: string; unique: NonNullable<NewJob['unique']> };
type Named = NewJob & { id: string };

const MAX_DELETED = 10_000;

/** Maps each new job whose key is in use to the job that has it, stored or before it in the list. */
export async function findByUniqueKey(tx: Transaction, jobs: Named[]): Promise<Map<string, string>> {
  const keyed = jobs.filter(isKeyed);
  if (keyed.length === 0) return new Map();
  const { rows } = await tx.execute<{ owner: string; type: string; key: string; job_id: string }>(sql`
    select owner, type, key, job_id from unique_keys
    join (select distinct owner, type, key from ${recordset(keyed)}) wanted using (owner, type, key)
    where expires_at > now()`);
  const holders = new Map(rows.map(({ owner, type, key, job_id }) => [nameOf(owner, type, key), job_id]));
  const duplicates = new Map<string, string>();
  for (const { id, owner, type, unique } of keyed) {
    const name = nameOf(owner ?? '', type, unique.key);
    const holder = holders.get(name);
    if (holder === undefined) holders.set(name, id);
    else duplicates.set(id, holder);
  }
  return duplicates;
}

/** Stores the keys of jobs that were just submitted. Throws `RetryTransaction` when another transaction has taken one of them. */
export async function storeUniqueKeys(tx: Transaction, jobs: Named[]): Promise<void> {
  const keyed = jobs.filter(isKeyed);
  if (keyed.length === 0) return;
  const { rowCount } = await tx.execute(sql`
    insert into unique_keys (owner, type, key, job_id, expires_at)
    select owner, type, key, job_id, now() + make_interval(secs => period) from ${recordset(keyed)} order by owner, type, key
    on conflict (owner, type, key) do update set job_id = excluded.job_id, expires_at = excluded.expires_at
      where unique_keys.expires_at <= now()`);
  if (rowCount !== keyed.length) throw new RetryTransaction();
}

/** Deletes keys that have expired. */
export async function deleteExpiredKeys(db: Database): Promise<void> {
  for (;;) {
    const { rowCount } = await db.execute(sql`
      delete from unique_keys where (owner, type, key) in (
        select owner, type, key from unique_keys where expires_at <= now() limit ${MAX_DELETED} for update skip locked)`);
    if ((rowCount ?? 0) < MAX_DELETED) return;
  }
}

function isKeyed(job: Named): job is Keyed {
  return job.unique !== undefined;
}

function recordset(jobs: Keyed[]) {
  const rows = jobs.map(({ id, owner, type, unique }) => {
    return { owner: owner ?? '', type, key: unique.key, job_id: id, period: unique.periodSeconds };
  });
  return sql`jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as x(owner text, type text, key text, job_id text, period float)`;
}

function nameOf(owner: string, type: string, key: string): string {
  return JSON.stringify([owner, type, key]);
}
