import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import type { Logger } from '../log.ts';
import type { Database } from './client.ts';
import * as schema from './schema.ts';

/** Runs a query that only reads, where that is cheapest. */
export type Read = <Rows>(query: (db: Database) => Promise<Rows>) => Promise<Rows>;

/** How long a replica that failed is left alone. */
const LEFT_ALONE_MS = 5_000;

/**
 * Reads from a replica of the database, but only what is as new as the database itself was when it was asked: the replica
 * must have come to where the primary's log stands now, or the primary is read. So whoever has written reads what it wrote,
 * through whichever process. A replica that is away or behind costs time, and nothing else. Without `url` all is read from `db`.
 */
export function openReplica(
  db: Database,
  url: string | undefined,
  log: Logger,
): { read: Read; close(): Promise<void> } {
  if (url === undefined) return { read: (query) => query(db), close: async () => undefined };
  const pool = new pg.Pool({
    connectionString: url,
    application_name: 'sheetmill-replica',
    connectionTimeoutMillis: 2_000,
    statement_timeout: 60_000,
  });
  pool.on('error', (error) => log.warn({ err: error }, 'idle connection to the replica lost'));
  const replica = drizzle({ client: pool, schema });
  let leftAloneUntil = 0;

  async function hasCaughtUp(): Promise<boolean> {
    const { rows: primary } = await db.execute<{ at: string }>(sql`select pg_current_wal_lsn()::text as at`);
    const { rows } = await replica.execute<{ there: boolean | null }>(
      sql`select pg_last_wal_replay_lsn() >= ${primary[0]?.at}::pg_lsn as there`,
    );
    return rows[0]?.there === true;
  }

  return {
    async read(query) {
      if (performance.now() < leftAloneUntil) return query(db);
      try {
        if (await hasCaughtUp()) return await query(replica);
      } catch (error) {
        leftAloneUntil = performance.now() + LEFT_ALONE_MS;
        log.warn({ err: error }, 'replica not read; the primary is');
      }
      return query(db);
    },
    close: () => pool.end(),
  };
}
