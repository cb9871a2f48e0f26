import { sql } from 'drizzle-orm';
import { openDatabase } from '../../db/client.ts';
import { forgetAnswers, keepAnswers, takeKey } from '../../db/idempotency.ts';
import { idempotencyKeys } from '../../db/schema.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';

let clone: Awaited<ReturnType<typeof cloneDatabase>>;
let database: Awaited<ReturnType<typeof openDatabase>>;
beforeAll(async () => {
  clone = await cloneDatabase();
  database = await openDatabase(clone.url, { name: 'test', log: createLogger('silent', {}) });
});
afterEach(() => database.db.delete(idempotencyKeys));
afterAll(async () => {
  await database.close();
  await clone.drop();
});

const ANSWER = { fingerprint: 'a', answer: { status: 201, location: null, body: {} } };
const twoDaysAgo = sql`now() - interval '2 days'`;

test('the answer to a request that took over an expired key is kept for a day from its start', async () => {
  const { db } = database;
  expect(await takeKey(db, 'owner', 'key')).toBe('new');
  // The first request ended two days ago without an answer.
  await db.update(idempotencyKeys).set({ createdAt: twoDaysAgo, lockedUntil: twoDaysAgo });
  expect(await takeKey(db, 'owner', 'key')).toBe('new');
  expect(await keepAnswers(db, [{ owner: 'owner', key: 'key', ...ANSWER }])).toBe(true);
  await forgetAnswers(db);
  expect(await takeKey(db, 'owner', 'key')).toEqual(ANSWER);
});

test('all answers older than a day are deleted, except locked ones', async () => {
  const { db } = database;
  await db.execute(sql`
    insert into idempotency_keys (owner, key, locked_until, created_at)
    select '', n::text, now(), case when n <= 2500 then ${twoDaysAgo} else now() end from generate_series(1, 2503) n`);
  await db.transaction(async (tx) => {
    await tx.execute(sql`select 1 from idempotency_keys where key = '7' for update`);
    await forgetAnswers(db);
  });
  expect(await db.$count(idempotencyKeys)).toBe(4);
  await forgetAnswers(db);
  expect(await db.$count(idempotencyKeys)).toBe(3);
});
