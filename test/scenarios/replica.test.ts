import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { sql } from 'drizzle-orm';
import { pino } from 'pino';
import { admitAdmin, asAdmin } from '../../bench/superuser.ts';
import { openDatabase } from '../../db/client.ts';
import { startEmbedded } from '../../db/embedded/start.ts';
import { openReplica } from '../../db/replica.ts';
import { makeImage } from '../support/files.ts';
import { startPostgres } from '../support/postgres.ts';
import { type Json, startService, until } from '../support/service.ts';

const log = pino({ level: 'silent' });
let folder: string;
let primary: Awaited<ReturnType<typeof startPostgres>>;
let standby: Awaited<ReturnType<typeof startPostgres>>;
let database: Awaited<ReturnType<typeof openDatabase>>;
let direct: Awaited<ReturnType<typeof openDatabase>>;
let replica: ReturnType<typeof openReplica>;

/** A streaming standby, made of a copy of the primary's files. */
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'sheetmill-replica-'));
  const [one, other] = ['primary', 'standby'].map((name) => path.join(folder, name)) as [string, string];
  await (await startEmbedded(one)).stop();
  execFileSync('cp', ['-a', one, other]);
  const settings = await admitAdmin(one);
  primary = await startPostgres(one, { settings });
  writeFileSync(path.join(other, 'data/standby.signal'), '');
  standby = await startPostgres(other, {
    settings: [...settings, `primary_conninfo=${asAdmin(primary.url)}`],
  });
  database = await openDatabase(primary.url, { name: 'test', log });
  direct = await openDatabase(asAdmin(standby.url), { name: 'test', log });
  replica = openReplica(database.db, standby.url, log);
  await database.pool.query('create table notes (word text)');
}, 120_000);

afterAll(async () => {
  await Promise.all([replica, database, direct].map((one) => one?.close()));
  await Promise.all([primary, standby].map((one) => one?.stop()));
  rmSync(folder, { recursive: true, force: true });
}, 60_000);

const write = (word: string) => database.pool.query('insert into notes values ($1)', [word]);

/** The notes, and the server that was read. */
const notes = (from = replica) =>
  from.read(async (db) => {
    const { rows } = await db.execute<{ word: string; standby: boolean }>(
      sql`select word, pg_is_in_recovery() as standby from notes order by word`,
    );
    return { words: rows.map(({ word }) => word), from: rows[0]?.standby ? 'replica' : 'primary' };
  });

const readThere = () => until(async () => (await notes()).from === 'replica');

test('the replica is read once it has the last write', async () => {
  await write('a');
  await readThere();
  expect(await notes()).toEqual({ words: ['a'], from: 'replica' });
});

test('a client reads its own writes while the replica lags, after a short wait', async () => {
  await direct.pool.query('select pg_wal_replay_pause()');
  await write('b');
  const began = performance.now();
  expect(await notes()).toEqual({ words: ['a', 'b'], from: 'primary' });
  expect(performance.now() - began).toBeLessThan(2_000);
  await direct.pool.query('select pg_wal_replay_resume()');
  await readThere();
  expect((await notes()).words).toEqual(['a', 'b']);
});

test.each(['on', 'off'])(
  'a read between many writes has all earlier writes (synchronous_commit %s)',
  async (commit) => {
    for (let index = 0; index < 50; index++) {
      const word = `${commit} ${String(index).padStart(3, '0')}`;
      await database.db.transaction(async (tx) => {
        await tx.execute(sql.raw(`set local synchronous_commit = ${commit}`));
        await tx.execute(sql`insert into notes values (${word})`);
      });
      expect((await notes()).words).toContain(word);
    }
    await readThere();
  },
);

test('a query that fails on both servers fails', async () => {
  await expect(replica.read((db) => db.execute(sql`select * from nothing`))).rejects.toThrow();
});

test('a server that is not a replica is not read', async () => {
  const itself = openReplica(database.db, primary.url, log);
  await expect(itself.read(async (db) => db === database.db)).resolves.toBe(true);
  await itself.close();
});

test('the API reads lists from the replica, with the latest uploads', async () => {
  const service = await startService({
    converters: 0,
    databaseUrl: primary.url,
    env: { DATABASE_READ_URL: standby.url },
  });
  try {
    const ids: string[] = [];
    for (let index = 0; index < 10; index++) {
      const { body } = await service.upload([['a.png', await makeImage()]]);
      ids.unshift(body.id);
      const [uploads, jobs, originals] = await Promise.all(
        ['/uploads', '/jobs', `/uploads/${body.id}/originals`].map((route) => service.get(route)),
      );
      expect(uploads.items.map(({ id }: Json) => id)).toEqual(ids);
      expect(jobs.items.map(({ upload_id }: Json) => upload_id)).toEqual(ids);
      expect(originals.items).toHaveLength(1);
    }
    // Postgres publishes its statistics with a delay.
    await until(async () => {
      const { rows } = await direct.pool.query(
        `select relname from pg_stat_user_tables where relname in ('uploads', 'jobs', 'originals') and seq_scan + idx_scan > 0`,
      );
      return rows.length === 3;
    });
  } finally {
    await service.stop();
  }
});

test('a replica that stops answering delays one read by some seconds', async () => {
  await readThere();
  const { rows } = await direct.pool.query(
    `select pid from pg_stat_activity where application_name = 'sheetmill-replica'`,
  );
  const stopped = [standby.pid, ...rows.map(({ pid }) => pid)];
  for (const one of stopped) process.kill(one, 'SIGSTOP');
  try {
    const began = performance.now();
    expect((await notes()).from).toBe('primary');
    expect(performance.now() - began).toBeLessThan(6_000);
    const again = performance.now();
    expect((await notes()).from).toBe('primary');
    expect(performance.now() - again).toBeLessThan(1_000);
  } finally {
    for (const one of stopped) process.kill(one, 'SIGCONT');
  }
  await readThere();
});

test('a replica that was promoted is not read', async () => {
  await direct.pool.query('select pg_promote()');
  await direct.pool.query(`insert into notes values ('astray')`);
  const { words, from } = await notes();
  expect([from, words.includes('astray')]).toEqual(['primary', false]);
});

test('the primary is read while the replica is down', async () => {
  await standby.stop();
  const fresh = openReplica(database.db, standby.url, log);
  expect((await notes(fresh)).from).toBe('primary');
  await write('d');
  expect((await notes(fresh)).words).toContain('d');
  await fresh.close();
});
