import { sql } from 'drizzle-orm';
import { openDatabase } from '../../db/client.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';

async function open(max: number) {
  const { url, drop } = await cloneDatabase();
  const { db, close } = await openDatabase(url, { name: 'test', log: createLogger('silent', {}), max });
  return { db, close: () => close().then(drop) };
}

test('a connection prepares only repeated statements', async () => {
  const { db, close } = await open(1);
  const add = async (a: number, b: number) => {
    const { rows } = await db.execute<{ sum: number }>(sql`select ${a}::int + ${b}::int as sum`);
    return rows[0]?.sum;
  };
  await db.execute(sql`select ${1}::int as once`);
  expect([await add(1, 2), await add(3, 4), await add(5, 6)]).toEqual([3, 7, 11]);
  const { rows } = await db.execute(sql`select statement from pg_prepared_statements`);
  expect(rows).toEqual([{ statement: 'select $1::int + $2::int as sum' }]);
  await close();
});

test('a connection keeps a bounded number of statements prepared', async () => {
  const { db, close } = await open(1);
  for (let number = 0; number < 600; number++) {
    for (let round = 0; round < 2; round++) await db.execute(sql`select ${sql.raw(String(number))}, ${1}::int`);
  }
  const { rows } = await db.execute<{ count: number }>(sql`select count(*)::int as count from pg_prepared_statements`);
  expect(rows[0]?.count).toBeLessThanOrEqual(500);
  await close();
});

test('a statement that failed when it was prepared works afterwards', async () => {
  const { db, close } = await open(1);
  const divide = (by: number) => db.execute<{ n: number }>(sql`select 6 / ${by}::int as n`);
  await divide(1);
  await expect(divide(0)).rejects.toThrow();
  expect((await divide(2)).rows).toEqual([{ n: 3 }]);
  await expect(divide(0)).rejects.toThrow();
  expect((await divide(3)).rows).toEqual([{ n: 2 }]);
  await close();
});
