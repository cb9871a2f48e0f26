import { execFile } from 'node:child_process';
import { readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

/** The signals that stop Postgres, each harder than the one before: fast shutdown, immediate shutdown, kill. */
const STOP_STEPS: { signal: NodeJS.Signals; timeoutMs: number }[] = [
  { signal: 'SIGINT', timeoutMs: 20_000 },
  { signal: 'SIGQUIT', timeoutMs: 5_000 },
  { signal: 'SIGKILL', timeoutMs: 5_000 },
];

/** Signals a process until it has stopped. Signals are repeated, since the process may be only about to start. */
export async function stopProcess(
  isRunning: () => boolean | Promise<boolean>,
  kill: (signal: NodeJS.Signals) => void,
): Promise<void> {
  for (const { signal, timeoutMs } of STOP_STEPS) {
    for (const deadline = Date.now() + timeoutMs; Date.now() < deadline; await delay(25)) {
      if (!(await isRunning())) return;
      kill(signal);
    }
  }
}

/** Stops a Postgres whose keeper was killed, and removes a pid file that Postgres would mistake for a live one. */
export async function clearLeftovers(data: string): Promise<void> {
  const pid = await recordedPid(data);
  if (pid === undefined) return;
  const isRunning = () => isPostmasterOf(pid, data);
  await stopProcess(isRunning, (signal) => send(pid, signal));
  // Postgres handles the file of a dead process more carefully: it looks for surviving children.
  if (!Number.isNaN(pid) && !send(pid, 0)) return;
  if (await isRunning()) throw new Error(`postgres (pid ${pid}) does not stop`);
  await rm(pidFileOf(data), { force: true });
}

/** The process id in Postgres's pid file: undefined without a file, NaN when the file holds none. */
export async function recordedPid(data: string): Promise<number | undefined> {
  const content = await readFile(pidFileOf(data), 'utf8').catch(() => undefined);
  if (content === undefined) return undefined;
  const pid = Number.parseInt(content, 10);
  // kill() takes a negative id for a process group.
  return pid > 1 ? pid : Number.NaN;
}

function pidFileOf(data: string): string {
  return path.join(data, 'postmaster.pid');
}

/** Returns false for a missing process and for one that we may not signal, which is no Postgres of ours. */
function send(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

/** True if the process is a postmaster of this data directory. Process ids are reused, so the pid file alone proves nothing. */
async function isPostmasterOf(pid: number, data: string): Promise<boolean> {
  if (process.platform !== 'linux') {
    const ps = await promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)]).catch(() => ({ stdout: '' }));
    return ps.stdout.includes(`postgres -D ${data} -p `);
  }
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  const [command = '', option, directory = ''] = line.split('\0');
  if (path.basename(command) !== 'postgres' || option !== '-D') return false;
  // Postgres works in its data directory, which we cannot see when it has a capability that we lack.
  const place = await stat(`/proc/${pid}/cwd`).catch(() => stat(directory).catch(() => undefined));
  const own = await stat(data);
  return place?.dev === own.dev && place.ino === own.ino;
}
