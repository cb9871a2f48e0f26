import { fileURLToPath } from 'node:url';
import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import pg from 'pg';
import journal from '../migrations/meta/_journal.json' with { type: 'json' };
import { type Queryable, whenReachable } from './client.ts';
import { connectionTo } from './connection.ts';
import { ADOPT_EVENTS } from './events.ts';
import { LOCKS } from './locks.ts';
import { installQueues } from './queues.ts';

const MIGRATIONS = fileURLToPath(new URL('../migrations', import.meta.url));

/**
 * Migrates our tables and pg-boss's schema. Processes that start together take turns. Waits up to a minute for a Postgres
 * that does not answer yet.
 */
export async function migrateDatabase(url: string): Promise<void> {
  await whenReachable(async () => {
    const client = new pg.Client(connectionTo(url, { name: 'sheetmill-migrate' }));
    // A connection lost between two queries fails the next one.
    client.on('error', () => undefined);
    try {
      await client.connect();
      await client.query('select pg_advisory_lock($1)', [LOCKS.migration]);
      await migrate(drizzle({ client }), { migrationsFolder: MIGRATIONS });
      await client.query(ADOPT_EVENTS);
      await installQueues(url);
    } finally {
      await client.end();
    }
  });
}

/** True if every migration of this version has been applied. */
export async function isMigrated(db: Queryable): Promise<boolean> {
  const newest = Math.max(...journal.entries.map(({ when }) => when));
  const { rows } = await db.execute(sql`select 1 from drizzle.__drizzle_migrations where created_at = ${newest}`);
  return rows.length > 0;
}
