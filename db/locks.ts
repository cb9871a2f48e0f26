import pg from 'pg';
import type { Database } from './client.ts';
import { connectionTo } from './connection.ts';

const QUERY_MS = 10_000;

/**
 * Does `work` while this holds an advisory lock; not at all when somebody else does. The lock belongs to a connection of
 * its own, which is silent meanwhile, and goes with it, so the work must bear that another begins it then. Gives whether
 * it was done.
 */
export async function withLock(db: Database, key: number, work: () => Promise<void>): Promise<boolean> {
  const url = db.$client.options.connectionString as string;
  const client = new pg.Client({ ...connectionTo(url, { name: 'sheetmill-lock' }), query_timeout: QUERY_MS });
  // The connection may break while nothing is asked of it; that must not end the process.
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query('select pg_try_advisory_lock($1) as got', [key]);
    if (rows[0].got) await work();
    return rows[0].got;
  } finally {
    // The connection ends, and with it the lock.
    await client.end();
  }
}
