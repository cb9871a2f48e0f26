import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { cloneDatabase } from '../support/database.ts';
import { makePdf, RED } from '../support/files.ts';
import { ROOT } from '../support/programs.ts';
import { type Json, until } from '../support/service.ts';
import { startWay } from '../support/tcp-proxy.ts';

let folder: string;
let database: Awaited<ReturnType<typeof cloneDatabase>>;
const ways: Awaited<ReturnType<typeof startWay>>[] = [];
const children: ChildProcess[] = [];
let pool: pg.Pool;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-outage-'));
  database = await cloneDatabase('template1');
  pool = new pg.Pool({ connectionString: database.url, max: 1 });
});
afterAll(async () => {
  const running = children.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null);
  const ended = running.map((child) => once(child, 'exit'));
  for (const child of running) child.kill('SIGKILL');
  await Promise.all(ended);
  await Promise.all(ways.map((way) => way.stop()));
  await pool.end();
  await database.drop();
  await rm(folder, { recursive: true });
});

async function start(part: 'api' | 'converter', env: Record<string, string> = {}) {
  const way = await startWay(database.url);
  ways.push(way);
  const child = fork(path.join(ROOT, part, 'main.ts'), {
    cwd: ROOT,
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      DATABASE_URL: way.url,
      DATA_DIR: folder,
      PORT: '0',
      LOG_LEVEL: 'fatal',
      CAPACITY_CPU: '1',
      ...env,
    },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  children.push(child);
  return { child, way, ready: once(child, 'message') as Promise<[{ url?: string }]> };
}

test('API and converter wait for Postgres at start, and survive its outage while they work', async () => {
  const [api, converter] = await Promise.all([start('api'), start('converter')]);
  await until(async () => api.way.refused() > 2 && converter.way.refused() > 2);
  for (const { way } of [api, converter]) way.open();
  const [[{ url = '' }]] = await Promise.all([api.ready, converter.ready]);

  const ask = async (route: string, options: RequestInit = {}): Promise<Json> => {
    const response = await fetch(url + route, options);
    return { status: response.status, body: await response.json() };
  };
  const form = new FormData();
  const pdf = await makePdf(Array.from({ length: 40 }, () => ({ width: 420, height: 420, color: RED })));
  form.append('file', new Blob([pdf as Uint8Array<ArrayBuffer>]), 'a.pdf');
  const { body } = await ask('/uploads', { method: 'POST', body: form });
  await until(async () => (await ask(`/uploads/${body.id}/status`)).body.progress.pages_done > 0);

  for (const { way } of [api, converter]) way.close();
  await until(async () => api.way.refused() > 4 && converter.way.refused() > 4);
  expect(await ask('/health/live')).toMatchObject({ status: 200 });
  expect(await ask('/health/ready')).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  expect(await ask(`/uploads/${body.id}`)).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  for (const { way } of [api, converter]) way.open();

  await until(async () => (await ask(`/uploads/${body.id}/status`)).body.done === true, 90_000);
  expect((await ask(`/uploads/${body.id}`)).body).toMatchObject({ status: 'completed', progress: { pages_done: 40 } });
  for (const { child } of [api, converter]) {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    expect(await exited).toEqual([0, null]);
  }
}, 180_000);

test('after a network outage of twenty seconds every running job continues and ends in its first attempt', async () => {
  const tasks = { TASKS: './test/scenarios/crashing-tasks.ts', CAPACITY_CPU: '2' };
  const parts = await Promise.all([start('api', tasks), ...[1, 2, 3].map(() => start('converter', tasks))]);
  const [api, ...converters] = parts as [(typeof parts)[0], ...typeof parts];
  for (const { way } of parts) way.open();
  const [[{ url = '' }]] = await Promise.all([api.ready, ...converters.map(({ ready }) => ready)]);
  const ask = async (route: string, options: RequestInit = {}): Promise<Json> =>
    (await fetch(url + route, options)).json();
  const sleep = { type: 'sleep', payload: { input: 30 }, retry_config: { max_attempts: 1 } };
  const body = JSON.stringify(Array(6).fill(sleep));
  const { items } = await ask('/jobs', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  const all = () => Promise.all(items.map(({ job_id }: Json) => ask(`/jobs/${job_id}`)));
  await until(async () => (await all()).every(({ status }) => status === 'running'));

  for (const { way } of parts) way.close();
  // Postgres itself is up, and sees the heartbeats grow older than any may be.
  await until(async () => {
    const { rows } = await pool.query(`
      select max(heartbeat_at) < now() - interval '20 seconds' as old from converters where status = 'live'`);
    return rows[0].old;
  }, 40_000);
  for (const { way } of parts) way.open();

  await until(async () => (await all()).every(({ status }) => status === 'completed'), 60_000);
  for (const { attempts } of await all()) expect(attempts).toHaveLength(1);
  expect((await ask('/system')).converters).toHaveLength(3);
}, 150_000);

test('a primary that becomes read-only is an outage: writes are refused, and running jobs end after it', async () => {
  const tasks = { TASKS: './test/scenarios/crashing-tasks.ts', CAPACITY_CPU: '2' };
  const [api, converter] = await Promise.all([start('api', tasks), start('converter', tasks)]);
  for (const { way } of [api, converter]) way.open();
  const [[{ url = '' }]] = await Promise.all([api.ready, converter.ready]);
  const job = { type: 'sleep', payload: { input: 2 }, retry_config: { max_attempts: 1 } };
  const headers = { 'Content-Type': 'application/json' };
  const post = () => fetch(`${url}/jobs`, { method: 'POST', headers, body: JSON.stringify(job) });
  const { job_id }: Json = await (await post()).json();
  const read = async (): Promise<Json> => (await fetch(`${url}/jobs/${job_id}`)).json();
  await until(async () => (await read()).status === 'running');

  const name = new URL(database.url).pathname.slice(1);
  await pool.query(`alter database ${name} set default_transaction_read_only = on`);
  await pool.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
  );
  await until(async () => (await fetch(`${url}/health/ready`)).status === 503);
  await until(async () => {
    const refused = await post();
    expect([refused.status, ((await refused.json()) as Json).code]).toEqual([503, 'unavailable']);
    expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(0);
    // The job has ended meanwhile, and cannot be settled.
    const { rows } = await pool.query(
      'select clock_timestamp() - started_at > make_interval(secs => 3) as over from jobs where id = $1',
      [job_id],
    );
    return rows[0].over;
  });
  expect((await read()).status).toBe('running');
  await pool.query(`set default_transaction_read_only = off`);
  await pool.query(`alter database ${name} reset default_transaction_read_only`);

  await until(async () => (await read()).status === 'completed');
  expect((await read()).attempts).toHaveLength(1);
  await until(async () => (await fetch(`${url}/health/ready`)).status === 200);
  await until(async () => (await post()).status === 201);
}, 120_000);
