import { type ChildProcess, type ForkOptions, fork, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { dieFirst } from './limits.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));

/**
 * A sandbox is one unit of CPU. V8's helper threads took 15% more of it for the same pages: pixel buffers make it collect
 * often. It counts them against its old space, which starts so small that every page set off a full collection.
 */
const NODE_FLAGS = ['--single-threaded-gc', '--expose-gc', '--initial-old-space-size=192'];

/** With setpriv, the kernel kills the sandbox when its converter dies; a busy child would outlive it otherwise. */
const hasSetpriv = spawnSync('setpriv', ['--pdeathsig', 'KILL', 'true']).status === 0;

/**
 * Starts a sandbox process, in a process group of its own. It gets none of the converter's environment: no credentials
 * reach untrusted bytes. Compiled code kept in `cacheFolder` takes a third off its start. It loads the own tasks of
 * `tasksModule` as well. What it prints is the caller's to read.
 */
export function startSandboxProcess({
  cacheFolder,
  tasksModule,
}: {
  /** The private folder of the process. */
  folder: string;
  cacheFolder: string;
  tasksModule: string | undefined;
}): ChildProcess {
  const env = {
    PATH: process.env.PATH,
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
  const options = { env, detached: true, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] } as ForkOptions;
  const child = hasSetpriv
    ? fork(CHILD, {
        ...options,
        execPath: 'setpriv',
        execArgv: ['--pdeathsig', 'KILL', '--', process.execPath, ...NODE_FLAGS],
      })
    : fork(CHILD, { ...options, execArgv: NODE_FLAGS });
  if (child.pid !== undefined) dieFirst(child.pid);
  return child;
}
