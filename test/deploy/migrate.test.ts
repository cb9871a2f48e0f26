import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { cloneDatabase } from '../support/database.ts';
import { type Program, ROOT, run } from '../support/programs.ts';
import { until } from '../support/service.ts';
import { startWay } from '../support/tcp-proxy.ts';

let database: Awaited<ReturnType<typeof cloneDatabase>>;
let pool: pg.Pool;
let folder: string;
const started: Program[] = [];
beforeEach(async () => {
  database = await cloneDatabase('template1');
  pool = new pg.Pool({ connectionString: database.url, max: 1 });
  // The drop of the database may end a connection that is still closing.
  pool.on('error', () => undefined);
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-migrate-'));
});
afterEach(async () => {
  await Promise.all(started.splice(0).map((program) => program.end('SIGKILL')));
  await pool.end();
  await database.drop();
  await rm(folder, { recursive: true });
});

const environment = () => ({ DATABASE_URL: database.url, DATA_DIR: folder, PORT: '0', LOG_LEVEL: 'error' });
function migrate(args: string[] = [], env: Record<string, string> = {}): Program {
  const program = run(['node', 'cli/main.ts', 'migrate', ...args], { env: { ...environment(), ...env } });
  started.push(program);
  return program;
}
const applied = async () => (await pool.query('select created_at from drizzle.__drizzle_migrations order by id')).rows;

async function startPart(part: 'api' | 'converter', url = database.url): Promise<ChildProcess> {
  const child = fork(path.join(ROOT, part, 'main.ts'), {
    cwd: ROOT,
    env: { ...process.env, NODE_OPTIONS: '', ...environment(), DATABASE_URL: url },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const [ready] = await Promise.race([once(child, 'message'), once(child, 'exit').then(([code]) => [{ code }])]);
  expect(ready).toMatchObject({ kind: 'ready' });
  return child;
}

test('ten processes that start together on an empty database run every migration once', async () => {
  const parts = (['api', 'converter', 'api', 'converter', 'api', 'converter', 'api'] as const).map((part) =>
    startPart(part),
  );
  const migrating = [migrate(), migrate(), migrate()];
  const children = await Promise.all(parts);
  for (const program of migrating) expect([await program.exited, program.output()]).toEqual([[0, null], '']);
  const journal = JSON.parse(await readFile(path.join(ROOT, 'migrations/meta/_journal.json'), 'utf8'));
  expect(await applied()).toEqual(journal.entries.map(({ when }: { when: number }) => ({ created_at: String(when) })));
  const ended = children.map((child) => once(child, 'exit'));
  for (const child of children) child.kill('SIGTERM');
  expect(await Promise.all(ended)).toEqual(children.map(() => [0, null]));
}, 180_000);

test('--wait changes nothing and ends after another process has migrated', async () => {
  const waiting = migrate(['--wait'], { LOG_LEVEL: 'info' });
  await until(async () => waiting.output().includes('waiting for migrations'), 40_000);
  await expect(applied()).rejects.toThrow('does not exist');
  expect(waiting.child.exitCode).toBe(null);
  const migrating = migrate();
  expect([await migrating.exited, migrating.output()]).toEqual([[0, null], '']);
  expect([await waiting.exited, waiting.output()]).toEqual([[0, null], expect.stringContaining('is up to date')]);
}, 120_000);

test('a failed migration is reported in one line', async () => {
  await pool.query('create schema drizzle; create table drizzle.__drizzle_migrations (id text)');
  const migrating = migrate();
  expect(await migrating.exited).toEqual([1, null]);
  expect(migrating.output()).toMatch(/^sheetmill: .*column "hash" does not exist\n$/s);
});

test('API, converter and migration accept a newer schema of pg-boss and leave it unchanged', async () => {
  expect(await migrate().exited).toEqual([0, null]);
  const { rows } = await pool.query('update pgboss.version set version = version + 1 returning version');
  expect(await migrate().exited).toEqual([0, null]);
  const children = await Promise.all([startPart('api'), startPart('converter')]);
  expect((await pool.query('select version from pgboss.version')).rows).toEqual(rows);
  const ended = children.map((child) => once(child, 'exit'));
  for (const child of children) child.kill('SIGTERM');
  expect(await Promise.all(ended)).toEqual(children.map(() => [0, null]));
}, 120_000);

test('API and converter wait until a read-only server accepts writes', async () => {
  expect(await migrate().exited).toEqual([0, null]);
  const name = new URL(database.url).pathname.slice(1);
  await pool.query(`alter database ${name} set default_transaction_read_only = on`);
  const way = await startWay(database.url);
  way.open();
  const starting = Promise.all([startPart('api', way.url), startPart('converter', way.url)]);
  try {
    await until(async () => way.accepted() > 12, 40_000);
    await pool.query('set default_transaction_read_only = off');
    await pool.query(`alter database ${name} reset default_transaction_read_only`);
    const children = await starting;
    const ended = children.map((child) => once(child, 'exit'));
    for (const child of children) child.kill('SIGTERM');
    expect(await Promise.all(ended)).toEqual(children.map(() => [0, null]));
  } finally {
    await way.stop();
  }
}, 120_000);
