import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { childrenOf, descendantsOf, killAll } from '../../runtime/process-tree.ts';
import { dieWithConverter, isolatedCommand, surroundingsOf } from './isolation/command.ts';
import { type Isolation, MAX_UIDS } from './isolation/detect.ts';
import { dieFirst } from './memory-limit.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));

/**
 * A sandbox is one unit of CPU. V8's helper threads took 15% more of it for the same pages: pixel buffers make it collect
 * often. It counts them against its old space, which starts so small that every page set off a full collection.
 */
export const NODE_FLAGS = ['--single-threaded-gc', '--expose-gc', '--initial-old-space-size=192'];

export interface SandboxOptions {
  /** The private folder of the sandbox, which the caller has created with its parts `in` and `out`. A sandbox that has its own user owns it. */
  folder: string;
  /** Compiled code kept here takes a third off the start. The sandbox reads it and cannot change it. */
  cacheFolder: string;
  /** The own tasks that it loads as well. */
  tasksModule: string | undefined;
  /** Folders that it must not see, wherever they lie. */
  hidden: string[];
  isolation: Isolation;
}

/** Several sandboxes of one user could reach each other. */
const uidsInUse = new Set<number>();

/**
 * Starts a sandbox process in a separate process group. It gets none of the converter's environment: no credentials
 * reach untrusted bytes. The caller reads what it prints, and talks to it over file descriptor 3.
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
  const [program = '', ...args] = isolation.hasSetpriv ? dieWithConverter(command) : command;
  return { program, args };
}

function environmentOf({ folder, cacheFolder, tasksModule }: SandboxOptions): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    HOME: folder,
    // Its converter empties this one between two tasks.
    TMPDIR: path.join(folder, 'out'),
    MALLOC_ARENA_MAX: '2',
    // What is freed goes back at once: a sandbox kept 200 MB of mixed images without these, and 84 with them.
    MALLOC_MMAP_THRESHOLD_: '131072',
    MALLOC_TRIM_THRESHOLD_: '131072',
    // Memory that is given back is taken anew: by huge pages a drawn page has a third of the page faults.
    GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
    // Pages must not depend on the fonts of the machine.
    DISABLE_SYSTEM_FONTS_LOAD: '1',
    // The canvas library would map a gigabyte that it never uses, and the cap counts what is mapped.
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
 * The processes of one sandbox. With namespaces, the process that the converter started holds them; its child is the
 * first process in them, and the sandbox itself the first child of that. Orphans become children of that first process.
 */
export class SandboxProcess {
  readonly child: ChildProcess;
  readonly folder: string;
  /** The user that it runs as; null for the converter's. Files for it in its folder must be readable for that user. */
  readonly uid: number | null;
  readonly #hasNamespaces: boolean;
  #main: number | undefined;

  constructor(child: ChildProcess, folder: string, uid: number | null, hasNamespaces: boolean) {
    this.child = child;
    this.folder = folder;
    this.uid = uid;
    this.#hasNamespaces = hasNamespaces;
    if (child.pid !== undefined) dieFirst(child.pid);
  }

  /** The process that runs tasks; to be asked for when it is ready. 0 when it is gone. */
  get pid(): number {
    const { pid = 0 } = this.child;
    this.#main ??= this.#hasNamespaces ? childOf(childOf(pid)) : pid;
    return this.#main ?? 0;
  }

  /** All that the sandbox has started. */
  others(): number[] {
    const above = this.#hasNamespaces ? childOf(this.child.pid) : this.child.pid;
    return descendantsOf(above ?? 0).filter((pid) => pid !== this.pid);
  }

  /** Kills it with all that it has started: namespaces end with the sandbox that they were made for. */
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
