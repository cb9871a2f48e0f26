import { appendFileSync, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { chown, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { sql } from 'drizzle-orm';
import { pino } from 'pino';
import { type Database, openDatabase } from '../../db/client.ts';
import { startEmbedded } from '../../db/embedded.ts';
import { openReplica } from '../../db/replica.ts';
import { until } from '../support/service.ts';

const log = pino({ level: 'silent' });
const NOBODY = 65534;
let folder: string;
let primary: Awaited<ReturnType<typeof startEmbedded>>;
let standby: Awaited<ReturnType<typeof startEmbedded>>;
let database: Awaited<ReturnType<typeof openDatabase>>;
let direct: Awaited<ReturnType<typeof openDatabase>>;
let replica: ReturnType<typeof openReplica>;

/** A streaming standby, made of a copy of the primary's files. */
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'sheetmill-replica-'));
  const [one, other] = ['primary', 'standby'].map((name) => path.join(folder, name)) as [string, string];
  await (await startEmbedded(one)).stop();
  cpSync(one, other, { recursive: true, preserveTimestamps: true });
  if (process.getuid?.() === 0) await chownAll(other);
  primary = await startEmbedded(one, { flags: ['-c', 'wal_level=replica', '-c', 'max_wal_senders=4'] });
  writeFileSync(path.join(other, 'data/standby.signal'), '');
  appendFileSync(path.join(other, 'data/postgresql.auto.conf'), `primary_conninfo = '${primary.url}'\n`);
  standby = await startEmbedded(other, { flags: ['-c', 'wal_level=replica', '-c', 'max_wal_senders=4'] });
  database = await openDatabase(primary.url, { name: 'test', log });
  direct = await openDatabase(standby.url, { name: 'test', log });
  replica = openReplica(database.db, standby.url, log);
  await database.pool.query('create table notes (word text)');
}, 120_000);

afterAll(async () => {
  await Promise.all([replica, database, direct].map((one) => one?.close()));
  await Promise.all([primary, standby].map((one) => one?.stop()));
  rmSync(folder, { recursive: true, force: true });
}, 60_000);

async function chownAll(dir: string): Promise<void> {
  for (const name of ['', ...(await readdir(dir, { recursive: true }))]) {
    await chown(path.join(dir, name), NOBODY, NOBODY);
  }
}

const write = (word: string) => database.pool.query('insert into notes values ($1)', [word]);

/** The notes, and where they were read. */
const notes = () =>
  replica.read(async (db: Database) => {
    const { rows } = await db.execute<{ word: string; standby: boolean }>(
      sql`select word, pg_is_in_recovery() as standby from notes order by word`,
    );
    return { words: rows.map(({ word }) => word), from: rows[0]?.standby ? 'replica' : 'primary' };
  });

test('is read once it has what was written', async () => {
  await write('a');
  await until(async () => (await notes()).from === 'replica');
  expect(await notes()).toEqual({ words: ['a'], from: 'replica' });
});

test('whoever has written reads what it wrote, though the replica lags', async () => {
  await direct.pool.query('select pg_wal_replay_pause()');
  await write('b');
  expect(await notes()).toEqual({ words: ['a', 'b'], from: 'primary' });
  await direct.pool.query('select pg_wal_replay_resume()');
  await until(async () => (await notes()).from === 'replica');
  expect((await notes()).words).toEqual(['a', 'b']);
});

test('every read of many, in the middle of many writes, has all that was written before it', async () => {
  const places = new Set<string>();
  for (let index = 0; index < 200; index++) {
    const word = `c${String(index).padStart(3, '0')}`;
    await write(word);
    const { words, from } = await notes();
    places.add(from);
    expect(words.at(-1)).toBe(word);
  }
  await until(async () => (await notes()).from === 'replica');
});

test('a query that fails everywhere fails', async () => {
  await expect(replica.read((db) => db.execute(sql`select * from nothing`))).rejects.toThrow();
});

test('when it is away, the primary is read', async () => {
  await direct.close();
  await standby.stop();
  expect((await notes()).from).toBe('primary');
  await write('d');
  expect((await notes()).words).toContain('d');
});
