import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Isolation } from './detect.ts';
import { readablePaths } from './paths.ts';
import type { Plan } from './plan.ts';

/** The command lines that start a program in isolation. */

const LAUNCHER = fileURLToPath(new URL('./launch.ts', import.meta.url));

/**
 * The shell is process 1 of the PID namespace, which ends with it: the kernel would keep its own fatal signals from a
 * process 1. `exit` keeps the shell from executing the program in its place. The shell does not print how the program ended.
 */
const INIT = ['sh', '-c', 'exec 9>&2 2>/dev/null; "$@" 2>&9 9>&-; exit $?', 'sh'];
const NAMESPACES = ['--net', '--ipc', '--pid', '--mount', '--uts', '--fork', '--kill-child'];

export interface Program {
  program: string;
  args: string[];
}

export interface Surroundings {
  /** Of the launcher: with those of the program, it takes compiled code from the same cache. */
  nodeFlags?: readonly string[];
  folder: string;
  uid: number | null;
  readable: Pick<Plan, 'readable' | 'links' | 'devices' | 'moved'>;
}

/** Wraps the program into the layers of `isolation`. */
export function isolatedCommand(
  { namespaces, landlock, seccomp, hasSetpriv }: Isolation,
  { program, args }: Program,
  { folder, uid, readable, nodeFlags = [] }: Surroundings,
): Program {
  const plan: Plan = {
    ...{ program, args, folder, uid, landlock, seccomp },
    ...readable,
    hasNamespaces: namespaces !== 'none',
    parent: namespaces === 'none' ? process.pid : null,
  };
  const launch = [process.execPath, ...nodeFlags, LAUNCHER, JSON.stringify(plan)];
  const asRoot = namespaces === 'by-user' ? ['--user', '--map-root-user'] : [];
  const inNamespaces = namespaces === 'none' ? launch : ['unshare', ...asRoot, ...NAMESPACES, '--', ...INIT, ...launch];
  const [first = '', ...rest] = hasSetpriv ? withParentDeathSignal(inNamespaces) : inNamespaces;
  return { program: first, args: rest };
}

/** The kernel kills the process when its converter dies. Without this, a busy child would survive it. */
export function withParentDeathSignal(command: string[]): string[] {
  return ['setpriv', '--pdeathsig', 'KILL', '--', ...command];
}

/** The files that a sandbox reads: its code, and compiled code that this converter has kept in `cacheFolder`. */
export function surroundingsOf(cacheFolder: string, tasksModule: string | undefined, hidden: string[]) {
  const paths = readablePaths(tasksModule, hidden);
  return (isolation: Isolation, uid: number | null): Surroundings['readable'] => ({
    ...paths,
    moved: cachesIn(cacheFolder).map((name) => [
      path.join(cacheFolder, name),
      cacheFor(isolation, cacheFolder, name, uid),
    ]),
  });
}

/** Node keeps compiled code apart by the user that it runs as, which is the last part of the folder's name. */
function cacheFor({ namespaces }: Isolation, cacheFolder: string, name: string, uid: number | null): string {
  const inside = uid ?? (namespaces === 'by-user' ? 0 : process.getuid?.());
  return path.join(cacheFolder, name.replace(/\d+$/, String(inside)));
}

function cachesIn(cacheFolder: string): string[] {
  try {
    return readdirSync(cacheFolder).filter(
      (name) => name.startsWith(`${process.version}-${process.arch}-`) && name.endsWith(`-${process.getuid?.()}`),
    );
  } catch {
    return [];
  }
}
