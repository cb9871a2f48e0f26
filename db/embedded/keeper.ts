/**
 * The process that owns the embedded Postgres; start.ts starts it as `keeper.ts <dir> [postgres flags]`. It stops Postgres
 * on a message or a signal, and when its parent ends.
 *
 * In `dir`: `data` (the cluster; `data.new` until it is complete), `password`, `postgres.log`.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { openSync, writeSync } from 'node:fs';
import { readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { errorCode, errorMessage } from '../../runtime/errors.ts';
import { hideProcessMemory } from '../../runtime/libc.ts';
import { listeningPort } from '../../runtime/listening-port.ts';
import { clearLeftovers, recordedPid, stopProcess } from './leftovers.ts';
import { type Binaries, findBinaries, initialiseCluster, Postmaster } from './postmaster.ts';
import { demoteServiceRole, SERVICE_ROLE } from './roles.ts';
import { embeddedUrl, type KeeperReport } from './start.ts';

const MAX_LOG_BYTES = 10 * 2 ** 20;

/** How long a start waits for another keeper that stops, and for processes of a killed Postgres. */
const LEFTOVERS_DEADLINE_MS = 30_000;

/** Errors of a start that passes: a port taken meanwhile, children of a killed Postgres that still run. */
const PASSING_ERROR = /Address already in use|shared memory block/;

const [dir = '', ...flags] = process.argv.slice(2);
const data = path.join(dir, 'data');

let postmaster: Postmaster | undefined;
let isStarting = true;
let isStopping = false;

process.umask(0o077);
for (const name of Object.keys(process.env)) if (name.startsWith('PG')) delete process.env[name];
process.on('uncaughtException', fail);
try {
  await hideProcessMemory();
  const binaries = await findBinaries();
  for (const event of ['SIGINT', 'SIGTERM', 'SIGHUP', 'disconnect', 'message']) process.on(event, () => stop());
  if (!process.connected) stop();
  const url = await start(binaries);
  isStarting = false;
  if (!isStopping) await report({ url });
} catch (error) {
  await fail(error);
}

async function start(binaries: Binaries): Promise<string> {
  try {
    userInfo();
  } catch {
    throw new Error(`Postgres needs a user with a name, and uid ${process.getuid?.()} has none; set DATABASE_URL`);
  }
  await lockFolder();
  await clearLeftovers(data);
  const writeLog = await openLog();
  const password = await initialise(binaries, writeLog);
  for (const deadline = Date.now() + LEFTOVERS_DEADLINE_MS; ; await delay(100)) {
    if (isStopping) throw new Error('stopped while starting');
    const port = await freePort();
    const started = new Postmaster(binaries, { data, port, flags }, writeLog);
    postmaster = started;
    try {
      await started.ready;
      await prepareDatabase(password, port);
      void started.exited.then(async () => {
        if (!isStopping) await fail(new Error(`postgres ended unexpectedly: ${started.recentLog}`));
      });
      return embeddedUrl(password, port);
    } catch (error) {
      if (!PASSING_ERROR.test(errorMessage(error)) || Date.now() > deadline) throw error;
    }
  }
}

/**
 * Takes `dir` for the life of this process by listening on an address, which the system frees however the process ends.
 * Waits for a keeper that is stopping; throws when one runs.
 */
async function lockFolder(): Promise<void> {
  const { dev, ino } = await stat(dir);
  const name = `${SERVICE_ROLE}-postgres-${dev}-${ino}`;
  const address = process.platform === 'linux' ? `\0${name}` : path.join(tmpdir(), name);
  for (const deadline = Date.now() + LEFTOVERS_DEADLINE_MS; ; await delay(50)) {
    if (await listenAt(address)) return;
    const question = createConnection({ path: address, signal: AbortSignal.timeout(5_000) });
    const answer = await text(question).catch(errorCode);
    // Outside Linux the address is a file, which stays behind.
    if (answer === 'ECONNREFUSED') await rm(address, { force: true }).catch(() => undefined);
    if (answer === 'running' || Date.now() > deadline) {
      const pid = (await recordedPid(data)) ?? 'unknown';
      throw new Error(`${dir} is in use by another ${SERVICE_ROLE} (postgres pid ${pid})`);
    }
  }
}

/** Answers other keepers at an address. Returns false if another keeper has it. */
async function listenAt(address: string): Promise<boolean> {
  const server = createServer((socket) => socket.on('error', () => undefined).end(isStopping ? 'stopping' : 'running'));
  try {
    await once(server.listen(address), 'listening');
    return true;
  } catch (error) {
    if (errorCode(error) === 'EADDRINUSE') return false;
    throw error;
  }
}

async function openLog(): Promise<(text: string) => void> {
  const file = path.join(dir, 'postgres.log');
  const { size } = await stat(file).catch(() => ({ size: 0 }));
  if (size > MAX_LOG_BYTES) await truncate(file);
  const fd = openSync(file, 'a');
  return (text) => {
    try {
      writeSync(fd, text);
    } catch {
      // A full disk must not stop Postgres with its log.
    }
  };
}

/** Makes the cluster if there is none. Returns its password. `data` appears only once the cluster is complete. */
async function initialise(binaries: Binaries, writeLog: (text: string) => void): Promise<string> {
  const passwordFile = path.join(dir, 'password');
  if ((await readdir(dir)).includes('data')) return (await readFile(passwordFile, 'utf8')).trim();
  const fresh = path.join(dir, 'data.new');
  await rm(fresh, { recursive: true, force: true });
  const password = randomBytes(24).toString('hex');
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600, flush: true });
  writeLog(await initialiseCluster(binaries, fresh, SERVICE_ROLE, passwordFile));
  await rename(fresh, data);
  return password;
}

/** Creates the database, for which the service role must still be a superuser, and then demotes that role. */
async function prepareDatabase(password: string, port: number): Promise<void> {
  await withClient(password, port, 'postgres', async (client) => {
    const { rowCount } = await client.query('select 1 from pg_database where datname = $1', [SERVICE_ROLE]);
    if (rowCount === 0) await client.query(`create database ${SERVICE_ROLE}`);
  });
  await withClient(password, port, SERVICE_ROLE, demoteServiceRole);
}

async function withClient(
  password: string,
  port: number,
  database: string,
  work: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const client = new pg.Client({ host: '127.0.0.1', port, user: SERVICE_ROLE, password, database });
  // A lost connection fails the query, too.
  client.on('error', () => undefined);
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
  const port = listeningPort(probe);
  await once(probe.close(), 'close');
  return port;
}

/** Stops Postgres and ends this process. */
async function stop(code = 0): Promise<void> {
  if (isStopping) return;
  isStopping = true;
  await stopProcess(
    () => isStarting || postmaster?.isRunning === true,
    (signal) => postmaster?.kill(signal),
  );
  process.exit(code);
}

async function fail(error: unknown): Promise<void> {
  isStarting = false;
  await report({ error: errorMessage(error) });
  await stop(1);
}

async function report(message: KeeperReport): Promise<void> {
  if (process.connected) await new Promise((resolve) => process.send?.(message, resolve));
}
