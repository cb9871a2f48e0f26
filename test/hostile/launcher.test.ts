import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { commandOf, isAlive } from '../scenarios/processes.ts';
import { cloneDatabase } from '../support/database.ts';
import { freePort, ROOT } from '../support/programs.ts';
import { until } from '../support/service.ts';
import { report } from './figures.ts';

/** `npm start` beside an API that hangs: a stopped process answers nothing, as one in an endless loop. */

const NOTICED_WITHIN_MS = 60_000;
const STOPPED_WITHIN_MS = 30_000;

let folder: string;
let database: Awaited<ReturnType<typeof cloneDatabase>>;
let launcher: ChildProcess;
let url: string;
/** All processes that the launcher had at one time. */
const seen = new Set<number>();
beforeAll(async () => {
  database = await cloneDatabase();
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-hostile-'));
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  launcher = spawn(process.execPath, ['cli/main.ts', 'serve'], {
    cwd: ROOT,
    env: {
      ...{ PATH: process.env.PATH, NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE },
      ...{ DATABASE_URL: database.url, DATA_DIR: folder, PORT: String(port), LOG_LEVEL: 'fatal' },
      ...{ SHUTDOWN_GRACE_SECONDS: '2', MIN_FREE_MB: '0' },
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (launcher.stdout !== null) await once(launcher.stdout, 'data');
});
afterAll(async () => {
  for (const pid of [launcher.pid ?? 0, ...seen].filter((pid) => pid > 0 && isAlive(pid))) process.kill(pid, 'SIGKILL');
  await database.drop();
  await rm(folder, { recursive: true });
});

/** Stops the API process; gives its process id. */
function hang(): number {
  const all = descendantsOf(launcher.pid ?? 0);
  for (const pid of all) seen.add(pid);
  const api = all.find((pid) => commandOf(pid).includes('api/main.ts'));
  if (api === undefined) throw new Error('there is no API');
  process.kill(api, 'SIGSTOP');
  return api;
}

function answers(): Promise<boolean> {
  return fetch(`${url}/health/live`, { signal: AbortSignal.timeout(1_000) }).then(
    ({ ok }) => ok,
    () => false,
  );
}

test('an API that hangs is replaced', async () => {
  const hung = hang();
  const began = performance.now();
  await until(answers, NOTICED_WITHIN_MS);
  report(expect.getState().currentTestName ?? '', { seconds: Math.round((performance.now() - began) / 1000) });
  expect(isAlive(hung)).toBe(false);
}, 90_000);

test('a service whose API hangs stops, and leaves no process behind', async () => {
  hang();
  const began = performance.now();
  const exited = once(launcher, 'exit');
  launcher.kill('SIGTERM');
  const ended = await Promise.race([
    exited,
    once(AbortSignal.timeout(STOPPED_WITHIN_MS), 'abort').then(() => 'running'),
  ]);
  report(expect.getState().currentTestName ?? '', { seconds: Math.round((performance.now() - began) / 1000) });
  expect(ended).not.toBe('running');
  expect([...seen].filter(isAlive)).toEqual([]);
}, 90_000);
