import { openDatabase } from '../../db/client.ts';
import { LOCKS, lockInTransaction, tryLockInTransaction, withLock } from '../../db/locks.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';

let clone: Awaited<ReturnType<typeof cloneDatabase>>;
let database: Awaited<ReturnType<typeof openDatabase>>;
beforeAll(async () => {
  clone = await cloneDatabase('template1');
  database = await openDatabase(clone.url, { name: 'test', log: createLogger('silent', {}) });
});
afterAll(async () => {
  await database.close();
  await clone.drop();
});

test('no two locks share a key, so that sending due jobs never waits for a delivery of webhooks', () => {
  const keys = Object.values(LOCKS);
  expect(new Set(keys).size).toBe(keys.length);
});

test('a lock excludes other transactions and connections until its transaction ends', async () => {
  const { db } = database;
  let done = 0;
  const work = async () => void done++;
  await db.transaction(async (holder) => {
    await lockInTransaction(holder, 'storeSweep');
    expect(await db.transaction((tx) => tryLockInTransaction(tx, 'storeSweep'))).toBe(false);
    expect(await db.transaction((tx) => tryLockInTransaction(tx, 'dueJobs'))).toBe(true);
    expect(await withLock(db, 'storeSweep', work)).toBe(false);
  });
  expect(await withLock(db, 'storeSweep', work)).toBe(true);
  expect(done).toBe(1);
});

test('a lock for one id does not block other ids', async () => {
  const { db } = database;
  await db.transaction(async (holder) => {
    await lockInTransaction(holder, 'change', 'one');
    expect(await db.transaction((tx) => tryLockInTransaction(tx, 'change', 'one'))).toBe(false);
    expect(await db.transaction((tx) => tryLockInTransaction(tx, 'change', 'other'))).toBe(true);
  });
});
