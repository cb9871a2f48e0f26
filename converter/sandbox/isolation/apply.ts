import { openSync } from 'node:fs';
import { ignoreErrors, type Kernel } from './kernel.ts';
import { restrictFiles, SCOPES_SIGNALS } from './landlock.ts';
import type { Plan } from './plan.ts';
import { enterPrivateRoot } from './private-root.ts';
import { adoptOrphans, dropPrivileges, setLimits, setParentDeathSignal } from './privileges.ts';
import { filterSystemCalls } from './seccomp.ts';

const F_SETFD = 2;
const STDIO_AND_CHANNEL = [0, 1, 2, 3];
const O_PATH = 0o10000000;

/** Files of /proc without information about other processes. */
const HARMLESS_IN_PROC = ['/proc/meminfo', '/proc/cpuinfo', '/proc/stat', '/proc/version', '/proc/uptime'];

/** Applies the plan to this process, and executes its program, so that the plan holds for all of its threads. */
export function applyPlan(kernel: Kernel, plan: Plan): never {
  const { hasNamespaces, uid, landlock } = plan;
  if (hasNamespaces) enterPrivateRoot(kernel, plan);
  else process.chdir(plan.folder);
  dropPrivileges(kernel, uid);
  setLimits(kernel, { hasSeparateUser: uid !== null || hasNamespaces });
  setParentDeathSignal(kernel);
  if (!hasNamespaces) adoptOrphans(kernel);
  if (plan.parent !== null && process.ppid !== plan.parent) process.exit(1);
  if (landlock > 0) restrictFiles(kernel, landlock, reachable(kernel, plan));
  // Node closes its descriptors when another program is executed.
  for (const fd of STDIO_AND_CHANNEL) keepOpen(kernel, fd);
  if (plan.seccomp) {
    const signalsOut = !hasNamespaces && landlock < SCOPES_SIGNALS;
    filterSystemCalls(kernel, { seesOtherFiles: !hasNamespaces, onlySignal: signalsOut ? process.pid : null });
  }
  const entries = Object.entries(process.env).map(([name, value]) => `${name}=${value}`);
  kernel('execve', plan.program, [plan.program, ...plan.args, 0n], [...entries, 0n]);
  throw new Error('execve returned');
}

function reachable(kernel: Kernel, { hasNamespaces, readable, moved, devices, folder }: Plan) {
  const places = [...readable, ...moved.map(([source, target]) => (hasNamespaces ? target : source))];
  if (hasNamespaces) return { readable: [...places, '/proc'], devices, writable: [folder] };
  const ownProcess = `/proc/${process.pid}`;
  // A rule for a folder in /proc holds while the kernel has it in memory, so it stays open.
  keepOpen(kernel, openSync(ownProcess, O_PATH));
  return { readable: [...places, ...HARMLESS_IN_PROC, ownProcess], devices, writable: [folder] };
}

function keepOpen(kernel: Kernel, fd: number): void {
  ignoreErrors(() => kernel('fcntl', fd, F_SETFD, 0), 'EBADF');
}
