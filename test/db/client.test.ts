import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { isOutage, openDatabase } from '../../db/client.ts';
import { createLogger } from '../../log.ts';
import { cloneDatabase } from '../support/database.ts';
import { startWay } from '../support/way.ts';

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

test('a start does not wait for what waiting cannot mend, such as a password that is wrong', async () => {
  const database = await cloneDatabase();
  const url = new URL(database.url);
  url.password = 'wrong';
  const log = createLogger('silent', {});
  const began = performance.now();
  try {
    await expect(openDatabase(url.href, { name: 'test', log })).rejects.toThrow('password authentication failed');
    expect(performance.now() - began).toBeLessThan(20_000);
  } finally {
    await database.drop();
  }
});

test.each([
  ['begins', 'begin'],
  ['is under way', 'select 1 as statement'],
  ['is committed', 'commit'],
])(
  'a connection that breaks while a transaction %s fails it, and takes neither the process nor a place in the pool',
  async (_when, words) => {
    const database = await cloneDatabase();
    const way = await startWay(database.url);
    way.open();
    const { db, close } = await openDatabase(way.url, { name: 'test', log: createLogger('silent', {}), max: 1 });
    try {
      for (let round = 0; round < 3; round++) {
        way.closeAt(words);
        const failed = db.transaction((tx) => tx.execute(sql`select 1 as statement`));
        expect(isOutage(await failed.catch((error) => error))).toBe(true);
        way.open();
        expect((await db.execute(sql`select 2 as answer`)).rows).toEqual([{ answer: 2 }]);
      }
      // In between two statements, too.
      const broken = db.transaction(async (tx) => {
        await tx.execute(sql`select 1 as statement`);
        way.close();
        await delay(50);
        way.open();
        await tx.execute(sql`select 1`);
      });
      expect(isOutage(await broken.catch((error) => error))).toBe(true);
      expect((await db.execute(sql`select 2 as answer`)).rows).toEqual([{ answer: 2 }]);
    } finally {
      await close();
      await way.stop();
      await database.drop();
    }
  },
);
