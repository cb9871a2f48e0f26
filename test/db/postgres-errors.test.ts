import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { isOutage } from '../../db/postgres-errors.ts';
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

test('an unreachable Postgres and a lost connection are outages, and a wrong statement is not', async () => {
  const database = await cloneDatabase();
  try {
    expect(isOutage(await failureOf('postgres://127.0.0.1:1/nothing', 'select 1'))).toBe(true);
    expect(isOutage(await failureOf(database.url, 'select pg_terminate_backend(pg_backend_pid())'))).toBe(true);
    expect(isOutage(await failureOf(database.url, 'select 1/0'))).toBe(false);
    const readOnly = 'set transaction read only; create table notes ()';
    expect(isOutage(await failureOf(database.url, readOnly))).toBe(true);
    const tooLong = 'set statement_timeout = 1; select pg_sleep(1)';
    expect(isOutage(await failureOf(database.url, tooLong))).toBe(false);
    expect(isOutage(Object.assign(new Error('bind message has 1 parameter formats'), { code: '08P01' }))).toBe(false);
    expect(isOutage(undefined)).toBe(false);
    expect(isOutage(new Error('the disk is full', { cause: { code: 'ENOSPC' } }))).toBe(false);
  } finally {
    await database.drop();
  }
});
