import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { childrenOf, descendantsOf, killAll } from '../../runtime/process-tree.ts';
import { isolatedCommand, surroundingsOf, withParentDeathSignal } from './isolation/command.ts';
import { MAX_UIDS } from './isolation/detect.ts';
import type { Isolation } from './isolation/isolation.ts';
import { setOomScore } from './memory-limit.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));

/**
 * A sandbox uses one CPU unit. Pixel buffers make V8 collect garbage often, and its helper threads used 15% more CPU for
 * the same pages. V8 counts the buffers against its old space, whose small initial size caused a full collection per page.
 */
export const NODE_FLAGS = ['--single-threaded-gc', '--expose-gc', '--initial-old-space-size=192'];

export interface SandboxOptions {
  /** The private folder, which the caller has created. It belongs to the user of the sandbox. */
  folder: string;
  /** The cache of compiled code, which makes the start a third faster. The sandbox cannot write to it. */
  cacheFolder: string;
  /** The module of the operator's tasks. */
  tasksModule: string | undefined;
  /** Folders that it must not see. */
  hidden: string[];
  isolation: Isolation;
}

/** Each sandbox has a separate user: sandboxes of one user could access each other. */
const uidsInUse = new Set<number>();

/**
 * Starts a sandbox process in a separate process group. It gets nothing of the converter's environment, which may hold
 * credentials. The caller reads its output, and exchanges messages over file descriptor 3.
 */
export function startSandboxProcess(options: SandboxOptions): SandboxProcess {
  const { folder, isolation } = options;
  const uid = takeUid(isolation);
  if (uid !== null) {
    for (const name of ['', ...readdirSync(folder)]) chownSync(path.join(folder, name), uid, uid);
  }
  const { program, args } = commandOf(options, uid);
  const child = spawn(program, args, {
    cwd: folder,
    env: environmentOf(options),
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  child.once('exit', () => giveBack(uid));
  child.once('error', () => child.pid === undefined && giveBack(uid));
  return new SandboxProcess(child, folder, uid, isolation.namespaces !== 'none');
}

function commandOf({ folder, cacheFolder, tasksModule, hidden, isolation }: SandboxOptions, uid: number | null) {
  const node = { program: process.execPath, args: [...NODE_FLAGS, CHILD] };
  if (isolation.level !== 'memory') {
    const readable = surroundingsOf(cacheFolder, tasksModule, hidden)(isolation, uid);
    return isolatedCommand(isolation, node, { folder, uid, readable, nodeFlags: NODE_FLAGS });
  }
  const command = [node.program, ...node.args];
  const [program = '', ...args] = isolation.hasSetpriv ? withParentDeathSignal(command) : command;
  return { program, args };
}

function environmentOf({ folder, cacheFolder, tasksModule }: SandboxOptions): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    HOME: folder,
    // The converter empties this folder between two tasks.
    TMPDIR: path.join(folder, 'out'),
    MALLOC_ARENA_MAX: '2',
    // Freed memory returns to the system at once: after mixed images, a sandbox kept 200 MB without these, and 84 MB with.
    MALLOC_MMAP_THRESHOLD_: '131072',
    MALLOC_TRIM_THRESHOLD_: '131072',
    // Returned memory is allocated again for each page: huge pages cause a third of the page faults.
    GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
    // Pages must not depend on the fonts of the machine.
    DISABLE_SYSTEM_FONTS_LOAD: '1',
    // The canvas library would map a gigabyte that it never uses, and the memory limit counts mapped memory.
    MIMALLOC_ARENA_EAGER_COMMIT: '0',
    NODE_COMPILE_CACHE: cacheFolder,
    ...(tasksModule !== undefined && { TASKS: tasksModule }),
  };
}

function takeUid({ firstUid }: Isolation): number | null {
  if (firstUid === null) return null;
  for (let uid = firstUid; uid < firstUid + MAX_UIDS; uid++) {
    if (uidsInUse.has(uid)) continue;
    uidsInUse.add(uid);
    return uid;
  }
  throw new Error(`more than ${MAX_UIDS} sandboxes`);
}

function giveBack(uid: number | null): void {
  if (uid !== null) uidsInUse.delete(uid);
}

/**
 * The processes of one sandbox. With namespaces, the converter starts a process outside of them, whose child is the first
 * process inside; the first child of that one runs the tasks. Orphans become children of the first process inside.
 */
export class SandboxProcess {
  readonly child: ChildProcess;
  readonly folder: string;
  /** The user of the sandbox, who must be able to read its files; null for the user of the converter. */
  readonly uid: number | null;
  readonly #hasNamespaces: boolean;
  #main: number | undefined;

  constructor(child: ChildProcess, folder: string, uid: number | null, hasNamespaces: boolean) {
    this.child = child;
    this.folder = folder;
    this.uid = uid;
    this.#hasNamespaces = hasNamespaces;
    if (child.pid !== undefined) setOomScore(child.pid);
  }

  /** The process that runs tasks, once the sandbox is ready. 0 when it is gone. */
  get pid(): number {
    const { pid = 0 } = this.child;
    this.#main ??= this.#hasNamespaces ? childOf(childOf(pid)) : pid;
    return this.#main ?? 0;
  }

  /** The processes that the sandbox started. */
  descendants(): number[] {
    const above = this.#hasNamespaces ? childOf(this.child.pid) : this.child.pid;
    return descendantsOf(above ?? 0).filter((pid) => pid !== this.pid);
  }

  /** Kills all processes of the sandbox. Those in namespaces end with the process that runs tasks. */
  kill(): void {
    const { pid, exitCode, signalCode } = this.child;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    const isInside = this.#hasNamespaces && this.pid !== 0;
    killAll(isInside ? [this.pid] : [-pid, ...descendantsOf(pid)]);
  }
}

function childOf(pid: number | undefined): number | undefined {
  return pid === undefined ? undefined : childrenOf(pid)[0];
}
