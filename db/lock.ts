import type { Database } from './client.ts';

/**
 * Does `work` while this holds an advisory lock; not at all when somebody else does. The lock is one connection's and
 * goes with it, so the work must bear that another begins it then. Gives whether it was done.
 */
export async function withLock(db: Database, key: number, work: () => Promise<void>): Promise<boolean> {
  const client = await db.$client.connect();
  // The connection may break while nothing is asked of it; that must not end the process.
  client.on('error', () => undefined);
  try {
    const { rows } = await client.query('select pg_try_advisory_lock($1) as got', [key]);
    if (rows[0].got) await work();
    return rows[0].got;
  } finally {
    // The connection ends, and with it the lock.
    client.release(true);
  }
}
