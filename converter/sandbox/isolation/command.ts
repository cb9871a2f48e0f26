import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Isolation } from './isolation.ts';
import { readablePaths } from './paths.ts';
import type { Plan } from './plan.ts';

/** The command lines that start an isolated program. */

const LAUNCHER = fileURLToPath(new URL('./launch.ts', import.meta.url));

/**
 * A shell is process 1 of the PID namespace, because the kernel does not send fatal signals to a process 1. `exit` prevents
 * the shell from replacing itself with the program. The shell prints no message about the program's end.
 */
const INIT = ['sh', '-c', 'exec 9>&2 2>/dev/null; "$@" 2>&9 9>&-; exit $?', 'sh'];
const NAMESPACES = ['--net', '--ipc', '--pid', '--mount', '--uts', '--fork', '--kill-child'];

export interface Program {
  program: string;
  args: string[];
}

export interface Surroundings {
  /** The flags of the launcher. With those of the program, both share the compile cache. */
  nodeFlags?: readonly string[];
  folder: string;
  uid: number | null;
  readable: Pick<Plan, 'readable' | 'links' | 'devices' | 'moved'>;
}

/** Wraps the program in the layers of `isolation`. */
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

/** The files that a sandbox reads: its code, and the compile cache in `cacheFolder`. */
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

/** Node separates compiled code by user, whose id ends the name of the folder. */
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
