import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
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

/** Brings the database to where it was before the migration of this name. */
async function migrateUpTo(name: string): Promise<void> {
  await cp(path.join(ROOT, 'migrations'), folder, { recursive: true });
  const file = path.join(folder, 'meta/_journal.json');
  const journal = JSON.parse(await readFile(file, 'utf8'));
  const at = journal.entries.findIndex(({ tag }: { tag: string }) => tag.endsWith(name));
  await writeFile(file, JSON.stringify({ ...journal, entries: journal.entries.slice(0, at) }));
  await migrate(drizzle({ client: pool }), { migrationsFolder: folder });
}

test('webhooks that pg-boss was to send are sent at the time of their next try', async () => {
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
