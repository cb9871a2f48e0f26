import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { compose, LOCAL_KEY } from '../support/compose.ts';
import { cloneDatabase } from '../support/database.ts';
import { makePdf, RED } from '../support/files.ts';
import { image, layOutImage } from '../support/image.ts';
import { freePort, type Program, run } from '../support/programs.ts';
import { hasRedis } from '../support/redis.ts';
import { type Json, until } from '../support/service.ts';

/**
 * The containers of docker-compose.yml as processes, with the commands, the environment and the files of the image. Names and
 * ports of other containers are replaced.
 */
let folder: string;
let app: string;
let database: Awaited<ReturnType<typeof cloneDatabase>>;
let standIns: Record<string, string>;
const started: Program[] = [];
const headers = { Authorization: `Bearer ${LOCAL_KEY}` };

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'sheetmill-containers-'));
  app = path.join(folder, 'app');
  layOutImage(app);
  database = await cloneDatabase('template1');
  standIns = {
    'postgres://sheetmill:sheetmill@postgres:5432/sheetmill': database.url,
    'redis://redis:6379': `redis://127.0.0.1:${await freePort()}`,
    '/data': path.join(folder, 'data'),
    '9464': String(await freePort()),
  };
});
afterAll(async () => {
  await Promise.all(started.map((program) => program.end('SIGKILL')));
  await database.drop();
  rmSync(folder, { recursive: true });
});

async function environmentOf(name: string): Promise<NodeJS.ProcessEnv> {
  const environment: Record<string, string> = compose.services[name].environment;
  const stoodIn = Object.entries(environment).map(([variable, value]) => [variable, standIns[value] ?? value]);
  // Each container has separate ports; temporary files are in a volume.
  return { ...image.env, PORT: String(await freePort()), TMPDIR: folder, ...Object.fromEntries(stoodIn) };
}

function start(command: string[], env: NodeJS.ProcessEnv = {}): Program {
  const program = run(command, { cwd: app, env });
  started.push(program);
  return program;
}

/** The exit code of the image's health check in a container with this environment. */
const health = async (env: NodeJS.ProcessEnv) => (await start(image.healthcheck, env).exited)[0];
const files = () => readdirSync(app, { recursive: true }).filter((name) => !String(name).startsWith('node_modules'));

test('the containers migrate an empty database, convert an upload and stop in time', async () => {
  const [migrationsEnv, apiEnv, converterEnv] = (await Promise.all(
    ['migrations', 'api', 'converter'].map(environmentOf),
  )) as [NodeJS.ProcessEnv, NodeJS.ProcessEnv, NodeJS.ProcessEnv];
  const before = files();
  const { migrations, api, converter, redis } = compose.services;
  expect(image.command).toEqual(api.command);

  if (hasRedis) {
    const { port } = new URL(apiEnv.REDIS_URL as string);
    start([...redis.command, '--port', port], {});
    await until(async () => (await start(['redis-cli', '-p', port, 'ping']).exited)[0] === 0);
  }
  const migrating = start(migrations.command, migrationsEnv);
  expect([await migrating.exited, migrating.output()]).toEqual([[0, null], expect.stringContaining('up to date')]);

  expect(await Promise.all([health(apiEnv), health(converterEnv)])).toEqual([1, 1]);
  const serving = start(api.command, apiEnv);
  const converting = start(converter.command, converterEnv);
  for (const [program, env] of [
    [serving, apiEnv],
    [converting, converterEnv],
  ] as const) {
    await until(async () => {
      if (program.child.exitCode !== null) throw new Error(program.output());
      return (await health(env)) === 0;
    }, 60_000);
  }

  const url = `http://127.0.0.1:${apiEnv.PORT}`;
  const ask = async (route: string, options: RequestInit = { headers }): Promise<Json> => {
    const response = await fetch(url + route, options);
    return { status: response.status, body: await response.json() };
  };
  expect(await ask('/health/ready')).toMatchObject({ status: 200 });
  expect(await ask('/uploads', {})).toMatchObject({ status: 401 });
  const form = new FormData();
  const pdf = await makePdf([{ color: RED }, { color: RED }]);
  form.append('file', new Blob([pdf as Uint8Array<ArrayBuffer>]), 'a.pdf');
  const { status, body } = await ask('/uploads', { method: 'POST', body: form, headers });
  expect(status).toBe(200);
  await ask(`/uploads/${body.id}/status`, { headers: { ...headers, Prefer: 'wait=60' } });
  const done = await ask(`/uploads/${body.id}`);
  expect(done.body).toMatchObject({ status: 'completed', progress: { pages_done: 2 } });

  for (const [program, { stop_grace_period }] of [
    [serving, api],
    [converting, converter],
  ] as const) {
    const began = Date.now();
    expect([await program.end(), program.output()]).toEqual([[0, null], expect.any(String)]);
    expect(Date.now() - began).toBeLessThan(Number.parseInt(stop_grace_period, 10) * 1000);
  }
  // In a container the root file system is read-only.
  expect(files()).toEqual(before);
}, 180_000);
