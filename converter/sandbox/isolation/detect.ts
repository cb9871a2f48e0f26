import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { chmod, chown, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isolatedCommand } from './command.ts';
import { type Isolation, LEVELS, type Level, type Namespaces } from './isolation.ts';
import { openKernel } from './kernel.ts';
import { landlockVersion, SCOPES_SIGNALS } from './landlock.ts';
import { readablePaths } from './paths.ts';

/** Detects the isolation layers that this machine supports. */

const PROBE_MS = 10_000;
/** A module of the project, which a sandbox must be able to read. */
const CODE = fileURLToPath(new URL('../../../runtime/errors.ts', import.meta.url));

/** The maximum number of sandboxes of a converter: each has a separate user id. */
export const MAX_UIDS = 1024;
/** Above the ids of users, services and containers. */
const FIRST_UID = 2_000_000_000;
const UIDS_OF_CONVERTERS = 100_000_000;

/**
 * Starts a trivial program at each level, strongest first, and returns the first level that works. `from` skips stronger
 * levels. `foldersIn` is the parent of the private folders.
 */
export async function detectIsolation({
  from = 'namespaces',
  foldersIn = tmpdir(),
}: {
  from?: Level;
  foldersIn?: string;
} = {}): Promise<Isolation> {
  const hasSetpriv = spawnSync('setpriv', ['--pdeathsig', 'KILL', 'true']).status === 0;
  const kernel = await openKernel();
  const landlock = kernel === null ? 0 : landlockVersion(kernel);
  const firstUid = process.getuid?.() === 0 ? firstFreeUid() : null;
  const offered = { landlock, hasSetpriv, seccomp: true };
  const namespaces: Namespaces = process.getuid?.() === 0 ? 'by-root' : 'by-user';
  const candidates: Omit<Isolation, 'layers'>[] = [
    { ...offered, level: 'namespaces', namespaces, firstUid },
    { ...offered, level: 'process', namespaces: 'none', firstUid },
    { ...offered, level: 'process', namespaces: 'none', firstUid: null },
    { ...offered, level: 'process', namespaces: 'none', firstUid: null, seccomp: false },
  ];
  for (const candidate of candidates) {
    if (kernel === null || LEVELS.indexOf(candidate.level) < LEVELS.indexOf(from)) continue;
    const isolation = { ...candidate, layers: layersOf(candidate) };
    if (await works(isolation, foldersIn)) return isolation;
  }
  const memory = {
    ...offered,
    level: 'memory',
    namespaces: 'none',
    firstUid: null,
    landlock: 0,
    seccomp: false,
  } as const;
  return { ...memory, layers: [] };
}

function layersOf({ namespaces, firstUid, landlock, seccomp }: Omit<Isolation, 'layers'>): string[] {
  const layers = {
    user: firstUid !== null,
    network_namespace: namespaces !== 'none',
    pid_namespace: namespaces !== 'none',
    ipc_namespace: namespaces !== 'none',
    private_root: namespaces !== 'none',
    no_new_privs: true,
    landlock: landlock > 0,
    landlock_signals: landlock >= SCOPES_SIGNALS,
    seccomp,
    rlimits: true,
  };
  return Object.entries(layers).flatMap(([name, holds]) => (holds ? [name] : []));
}

async function works(isolation: Isolation, foldersIn: string): Promise<boolean> {
  const folder = await mkdtemp(path.join(foldersIn, 'isolation-'));
  const uid = isolation.firstUid;
  try {
    await chmod(folder, 0o700);
    if (uid !== null) await chown(folder, uid, uid);
    const readable = { ...readablePaths(undefined, []), moved: [] };
    const probe = { program: process.execPath, args: [CODE] };
    const { program, args } = isolatedCommand(isolation, probe, { folder, uid, readable });
    await promisify(execFile)(program, args, { timeout: PROBE_MS, env: { PATH: process.env.PATH } });
    return true;
  } catch {
    return false;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Running converters have different process ids, so their sandboxes have different user ids. */
function firstFreeUid(): number {
  const maps = readFileSync('/proc/self/uid_map', 'utf8').trim().split('\n');
  const end = Math.max(
    ...maps.map((line) => line.trim().split(/\s+/).map(Number)).map(([from = 0, , count = 0]) => from + count),
  );
  const room = end > FIRST_UID + UIDS_OF_CONVERTERS;
  if (room) return FIRST_UID + ((process.pid * MAX_UIDS) % UIDS_OF_CONVERTERS);
  return end - 4 * MAX_UIDS;
}
