import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { migrateDatabase } from '../../db/migrate.ts';
import { cloneDatabase } from '../support/database.ts';
import { ROOT } from '../support/programs.ts';

let database: Awaited<ReturnType<typeof cloneDatabase>>;
let folder: string;
let pool: pg.Pool;
beforeAll(async () => {
  database = await cloneDatabase('template1');
  pool = new pg.Pool({ connectionString: database.url });
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-migrate-'));
});
afterAll(async () => {
  await pool.end();
  await Promise.all([database.drop(), rm(folder, { recursive: true })]);
});

/** Migrates the database up to the migration before this one. */
async function migrateUpTo(name: string): Promise<void> {
  await cp(path.join(ROOT, 'migrations'), folder, { recursive: true });
  const file = path.join(folder, 'meta/_journal.json');
  const journal = JSON.parse(await readFile(file, 'utf8'));
  const at = journal.entries.findIndex(({ tag }: { tag: string }) => tag.endsWith(name));
  await writeFile(file, JSON.stringify({ ...journal, entries: journal.entries.slice(0, at) }));
  await migrate(drizzle({ client: pool }), { migrationsFolder: folder });
}

test('a migration keeps the due times of webhooks that pg-boss was to send', async () => {
  await migrateUpTo('_webhook_hosts');
  const boss = new PgBoss({ connectionString: database.url, max: 1, supervise: false, schedule: false });
  await boss.start();
  await boss.createQueue('webhooks');
  const ids = [0, 1, 2].map((n) => `01a20a0b-5ccf-7021-8000-00000000000${n}`);
  await pool.query(
    `insert into webhooks (id, url, type, status)
     select unnest($1::uuid[]), 'https://Example.com:8443/a?b', 'job.completed', unnest(array['pending', 'pending', 'delivered'])`,
    [ids],
  );
  await boss.insert('webhooks', [{ id: ids[0] as string, startAfter: 3_600 }]);
  await boss.stop({ graceful: false });
  await migrateDatabase(database.url);
  const { rows } = await pool.query(
    `select host, round(extract(epoch from due_at - now()) / 60)::int as minutes, locked_until from webhooks order by id`,
  );
  expect(rows).toEqual([
    { host: 'example.com:8443', minutes: 60, locked_until: null },
    { host: 'example.com:8443', minutes: 0, locked_until: null },
    { host: '', minutes: 0, locked_until: null },
  ]);
  expect((await pool.query(`select 1 from pgboss.job where name = 'webhooks'`)).rowCount).toBe(0);
});

/** The part of the migration that moves the schedules of pg-boss. */
async function statement(): Promise<string> {
  for (const name of await readdir(path.join(ROOT, 'migrations'))) {
    if (!name.endsWith('.sql')) continue;
    const parts = (await readFile(path.join(ROOT, 'migrations', name), 'utf8')).split('--> statement-breakpoint');
    const found = parts.find((part) => part.includes('pgboss.schedule'));
    if (found !== undefined) return found;
  }
  throw new Error('no migration moves the schedules of pg-boss');
}

test('a migration moves the schedules of pg-boss, each with its owner, and once', async () => {
  const { url, drop } = await cloneDatabase();
  const client = new pg.Client({ connectionString: url });
  const boss = new PgBoss({ connectionString: url, max: 1, supervise: false, schedule: false });
  const shape = { cpuUnits: 1, memoryMb: 256 };
  try {
    await client.connect();
    await boss.start();
    await boss.createQueue('cron');
    await boss.createQueue('others');
    const job = { type: 'noop', priority: 'normal', payload: {}, shape };
    const request = { type: 'noop' };
    await boss.schedule('cron', '0 3 * * *', { request, job: { ...job, owner: null } }, { key: 'open', tz: 'UTC' });
    const ofAlice = { request, job: { ...job, owner: 'alice' } };
    await boss.schedule('cron', '0 4 * * *', ofAlice, { key: 'abcdef0123/nightly', tz: 'Europe/Berlin' });
    await boss.schedule('others', '0 5 * * *', {}, { key: 'kept', tz: 'UTC' });
    await client.query(await statement());
    await client.query(await statement());
    const { rows } = await client.query(
      `select name, owner, cron, timezone, paused, overlap, missed, job, next_run_at < created_at as premature
        from schedules order by name`,
    );
    const moved = { paused: false, overlap: 'allow', missed: 'once', job: { request, job }, premature: true };
    expect(rows).toEqual([
      { name: 'nightly', owner: 'alice', cron: '0 4 * * *', timezone: 'Europe/Berlin', ...moved },
      { name: 'open', owner: null, cron: '0 3 * * *', timezone: 'UTC', ...moved },
    ]);
    expect((await client.query('select key from pgboss.schedule')).rows).toEqual([{ key: 'kept' }]);
  } finally {
    await boss.stop({ graceful: false });
    await client.end();
    await drop();
  }
});
