import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { isOutage } from '../../db/client.ts';
import { cloneDatabase } from '../support/database.ts';

async function failureOf(url: string, statement: string): Promise<unknown> {
  const pool = new pg.Pool({ connectionString: url });
  pool.on('error', () => undefined);
  try {
    return await drizzle({ client: pool }).execute(sql.raw(statement));
  } catch (error) {
    return error;
  } finally {
    await pool.end();
  }
}

test('a Postgres that cannot be reached, or that ends the connection, is an outage; a wrong statement is none', async () => {
  const database = await cloneDatabase();
  try {
    expect(isOutage(await failureOf('postgres://127.0.0.1:1/nothing', 'select 1'))).toBe(true);
    expect(isOutage(await failureOf(database.url, 'select pg_terminate_backend(pg_backend_pid())'))).toBe(true);
    expect(isOutage(await failureOf(database.url, 'select 1/0'))).toBe(false);
    expect(isOutage(new Error('the disk is full', { cause: { code: 'ENOSPC' } }))).toBe(false);
  } finally {
    await database.drop();
  }
});
