import { type SQL, sql } from 'drizzle-orm';
import pg from 'pg';
import type { Database, Transaction } from './client.ts';
import { connectionTo } from './connection.ts';

/**
 * The keys of all advisory locks. Processes of several versions share them, so a key keeps its meaning forever. A lock of
 * one among many things has a second key: the hash of the thing's name.
 */
export const LOCKS = {
  /** Held while the schema is migrated. */
  migration: 7_311_001,
  /** Held by the leader during a maintenance round. */
  maintenance: 7_311_002,
  /** Held while a converter takes the lease to make room for a large job. */
  drainLease: 7_311_003,
  /** Per job type and concurrency key. The database function `admit_jobs` takes it (migration 0016). */
  concurrencyKey: 7_311_004,
  /** Held while orphaned files are removed from the store. */
  storeSweep: 7_311_005,
  /** Held while an API process takes webhooks to deliver. */
  webhooks: 7_311_006,
  /** Held while jobs that are due become ready. */
  dueJobs: 7_311_007,
  /** Per upload or job: one client at a time cancels, retries or deletes it. */
  change: 7_311,
  /** Per owner: starts of bulk operations. */
  bulkStart: 7_312,
} as const;

type LockName = keyof typeof LOCKS;

const QUERY_MS = 10_000;

/** Waits for a lock and holds it until the transaction ends. */
export async function lockInTransaction(tx: Transaction, name: LockName, of?: string): Promise<void> {
  await tx.execute(sql`select pg_advisory_xact_lock(${keysOf(name, of)})`);
}

/** Takes a lock until the transaction ends, unless another transaction holds it. Returns whether it was free. */
export async function tryLockInTransaction(tx: Transaction, name: LockName, of?: string): Promise<boolean> {
  const { rows } = await tx.execute<{ got: boolean }>(
    sql`select pg_try_advisory_xact_lock(${keysOf(name, of)}) as got`,
  );
  return rows[0]?.got === true;
}

function keysOf(name: LockName, of: string | undefined): SQL {
  return of === undefined ? sql`${LOCKS[name]}` : sql`${LOCKS[name]}::int, hashtext(${of})`;
}

/** Waits until no other transaction changes the schedules of this owner, and holds the lock until this one ends. */
export async function lockSchedulesOf(tx: Transaction, owner: string | null): Promise<void> {
  await tx.execute(sql`select pg_advisory_xact_lock(hashtextextended(${`schedules of ${owner ?? ''}`}, 0))`);
}

/**
 * Does `work` while a separate connection holds the lock, and not at all while another process holds it. Returns whether
 * it was done. A lost connection frees the lock, so `work` must tolerate a second process doing the same.
 */
export async function withLock(db: Database, name: LockName, work: () => Promise<void>): Promise<boolean> {
  const { connectionString = '' } = db.$client.options;
  const client = new pg.Client({
    ...connectionTo(connectionString, { name: 'sheetmill-lock' }),
    query_timeout: QUERY_MS,
  });
  // An idle connection may break, which must not end the process.
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ got: boolean }>('select pg_try_advisory_lock($1) as got', [LOCKS[name]]);
    const isFree = rows[0]?.got === true;
    if (isFree) await work();
    return isFree;
  } finally {
    await client.end();
  }
}
