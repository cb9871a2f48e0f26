import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { commandOf, isAlive } from '../scenarios/processes.ts';
import { makeImage } from '../support/files.ts';
import { type Json, until } from '../support/service.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const URL_LINE = /^sheetmill listens on (http:\/\/127\.0\.0\.1:\d+)\n$/;

let folder: string;
const started: ChildProcess[] = [];
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-start-'));
});
afterAll(async () => {
  for (const child of started) if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
  await until(async () => started.every(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null));
  await rm(folder, { recursive: true });
});

/** Runs what `npm start` runs; `url` resolves with the line on standard output. */
function start(env: Record<string, string> = {}) {
  const { DATABASE_URL: _, ...environment } = process.env;
  const child = spawn(process.execPath, ['main.ts'], {
    cwd: ROOT,
    env: { ...environment, NODE_OPTIONS: '', DATA_DIR: folder, PORT: '0', CAPACITY_CPU: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  started.push(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk) => {
    output.stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    output.stderr += chunk;
  });
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const url = async () => {
    await until(async () => output.stdout.includes('\n') || child.exitCode !== null, 30_000);
    expect([output.stderr, output.stdout]).toEqual(['', expect.stringMatching(URL_LINE)]);
    return URL_LINE.exec(output.stdout)?.[1] as string;
  };
  return { child, output, exited, url };
}

async function get(url: string): Promise<Json> {
  const response = await fetch(url);
  expect([url, response.status]).toEqual([url, 200]);
  return response.json();
}

async function convertOne(url: string): Promise<Json> {
  const form = new FormData();
  form.append('file', new Blob([(await makeImage()) as Uint8Array<ArrayBuffer>]), 'a.png');
  const { id } = (await (await fetch(`${url}/uploads`, { method: 'POST', body: form })).json()) as Json;
  await until(async () => (await get(`${url}/uploads/${id}/status`)).done);
  const done = await get(`${url}/uploads/${id}`);
  expect(done).toMatchObject({ status: 'completed', progress: { pages_done: 1, pages_total: 1 } });
  return done;
}

/** All processes below this one: API, converter, sandboxes, Postgres and its keeper. */
function family({ pid }: ChildProcess): number[] {
  const found = descendantsOf(pid as number);
  expect(found.length).toBeGreaterThan(6);
  return found;
}

const isApi = (pid: number) => commandOf(pid).includes('api/main.ts');

test('one command starts all of it, ends all of it, and keeps what it was given', async () => {
  const first = start();
  const url = await first.url();
  await get(`${url}/health/ready`);
  const document = await convertOne(url);
  const members = family(first.child);
  first.child.kill('SIGTERM');
  expect(await first.exited).toEqual([0, null]);
  expect(members.filter(isAlive)).toEqual([]);
  expect(first.output).toEqual({ stdout: `sheetmill listens on ${url}\n`, stderr: '' });

  const second = start();
  const again = await second.url();
  expect(await get(`${again}/uploads/${document.id}`)).toEqual(document);

  // Killed, it can end nothing itself: everybody else notices.
  const orphans = family(second.child);
  second.child.kill('SIGKILL');
  await second.exited;
  await until(async () => !orphans.some(isAlive), 30_000);

  const third = start();
  const onceMore = await third.url();
  expect((await get(`${onceMore}/uploads`)).items.map(({ id }: Json) => id)).toEqual([document.id]);
  await convertOne(onceMore);

  // A part that dies by itself is started again.
  const api = descendantsOf(third.child.pid as number).find(isApi) as number;
  process.kill(api, 'SIGKILL');
  await until(async () => descendantsOf(third.child.pid as number).some((pid) => pid !== api && isApi(pid)));
  const last = family(third.child);
  third.child.kill('SIGINT');
  expect(await third.exited).toEqual([0, null]);
  expect(last.filter(isAlive)).toEqual([]);
}, 180_000);

test.each([
  ['PORT', 'abc'],
  ['LOG_LEVEL', 'loud'],
])('%s=%s stops the start with one line that names it', async (name, value) => {
  const child = spawn(process.execPath, ['main.ts'], {
    cwd: ROOT,
    env: { ...process.env, NODE_OPTIONS: '', DATA_DIR: folder, [name]: value },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [[code], stdout, stderr] = await Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)]);
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(new RegExp(`^sheetmill: .*${name}="${value}".*\n$`));
});
