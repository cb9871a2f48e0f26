import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import net, { type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { detectIsolation } from '../../converter/sandbox/isolation/detect.ts';
import type { Level } from '../../converter/sandbox/isolation/isolation.ts';
import { startOrphanReaper } from '../../converter/sandbox/orphan-reaper.ts';
import { SandboxPool } from '../../converter/sandbox/pool.ts';
import type { RunOutcome } from '../../converter/task-runner.ts';
import { hideProcessMemory } from '../../runtime/libc.ts';
import { createLogger } from '../../runtime/log.ts';
import type { Targets } from './hostile-tasks.ts';
import { prepareFor, taskRequest } from './prepare.ts';

/**
 * A converter with secrets, files and sockets around it, which runs hostile tasks in sandboxes of one level and prints a
 * report. SECRET in its environment is a secret.
 */

/** The argument of this program, as JSON. */
export interface HostileOptions {
  level: Level;
  /** The latest version of Landlock that is used, for machines with an older kernel. */
  maxLandlock: number;
}

export interface HostileReport {
  hostile: RunOutcome;
  /** A daemon that a task has left behind, after its sandbox has ended. */
  daemonLives: boolean;
  converterUid: number | undefined;
}

const DAEMON = `daemon-of-${process.pid}`;

const { level, maxLandlock }: HostileOptions = JSON.parse(process.argv[2] ?? '');
const secret = process.env.SECRET ?? '';
await hideProcessMemory();
const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-hostile-'));
// Sandboxes that run as another user pass through it.
await chmod(folder, 0o711);
const bystander = spawn('sleep', ['60'], { env: { SECRET: secret } });
const listeners: Server[] = [];
try {
  const report = await attack(await prepareTargets());
  process.stdout.write(JSON.stringify(report));
} finally {
  bystander.kill('SIGKILL');
  for (const listener of listeners) listener.close();
  for (const pid of daemons()) process.kill(pid, 'SIGKILL');
  await rm(folder, { recursive: true });
}

async function attack(targets: Targets): Promise<HostileReport> {
  const offered = await detectIsolation({ from: level });
  if (offered.level !== level) throw new Error(`this machine offers ${offered.level}`);
  if (level === 'memory' && process.getuid?.() === 0) throw new Error('root would reach the whole machine');
  const isolation = { ...offered, landlock: Math.min(offered.landlock, maxLandlock) };
  const pool = new SandboxPool({
    keep: 1,
    roomMb: () => 1024,
    workFolder: path.join(folder, 'work'),
    cacheFolder: path.join(folder, 'data', 'compile-cache'),
    tasksModule: path.join(import.meta.dirname, 'hostile-tasks.ts'),
    hidden: [path.join(folder, 'data')],
    isolation,
    orphans: isolation.namespaces === 'none' ? await startOrphanReaper() : null,
    log: createLogger('warn', {}),
  });
  const lease = pool.lease(256, null);
  const options = { deadlineMs: 60_000, signal: new AbortController().signal, onEvent: () => undefined };
  const hostile = await lease.run(prepareFor(taskRequest({ type: 'hostile', payload: targets })), options);
  const daemon = await lease.run(prepareFor(taskRequest({ type: 'daemon', payload: { name: DAEMON } })), options);
  if (daemon.outcome.kind !== 'completed' || daemons().length === 0) throw new Error(JSON.stringify(daemon.outcome));
  lease.release();
  await pool.close();
  return { hostile: hostile.outcome, daemonLives: daemons().length > 0, converterUid: process.getuid?.() };
}

async function prepareTargets(): Promise<Targets> {
  const data = path.join(folder, 'data');
  const store = path.join(data, 'store');
  const cache = path.join(data, 'compile-cache');
  for (const made of [store, cache, path.join(folder, 'work')]) await mkdir(made, { recursive: true });
  const files = [path.join(store, 'original.pdf'), path.join(data, 'password')];
  for (const file of files) await writeFile(file, secret);
  const socket = path.join(folder, 'socket');
  const abstract = path.basename(folder);
  const tcp = await listen(0);
  await listen(socket);
  await listen(`\0${abstract}`);
  const project = path.resolve(import.meta.dirname, '../..');
  return {
    secret,
    pids: [process.pid, process.ppid, ...idOf(bystander)],
    ports: [(tcp.address() as AddressInfo).port],
    socket,
    abstract,
    files,
    readable: ['/etc/passwd', '/etc/hostname', path.join(project, '.git')],
    // The tasks here belong to the project, so that they read its code.
    folders: [
      folder,
      data,
      store,
      cache,
      path.join(project, '.git'),
      '/tmp',
      '/dev/shm',
      '/etc',
      '/home',
      '/root',
      '/var',
      '/run',
    ],
  };
}

async function listen(place: number | string): Promise<Server> {
  const server = net.createServer().listen(place);
  listeners.push(server);
  await once(server, 'listening');
  return server;
}

function idOf({ pid }: ChildProcess): number[] {
  return pid === undefined ? [] : [pid];
}

function daemons(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && commandOf(name).includes(DAEMON))
    .map(Number);
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
