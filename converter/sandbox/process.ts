import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));

/** A sandbox is one unit of CPU. V8's helper threads took 15% more CPU for the same pages: pixel buffers make it collect often. */
const NODE_FLAGS = ['--single-threaded-gc', '--expose-gc'];

/** With setpriv, the kernel kills the sandbox when its converter dies; a busy child would outlive it otherwise. */
const hasSetpriv = spawnSync('setpriv', ['--pdeathsig', 'KILL', 'true']).status === 0;

/**
 * Starts a sandbox process. It gets none of the converter's environment: no credentials reach untrusted bytes. Compiled code
 * kept in `cacheFolder` takes a third off its start. It loads the own tasks of `tasksModule` as well.
 */
export function startSandboxProcess(cacheFolder: string, tasksModule: string | undefined): ChildProcess {
  const env = {
    PATH: process.env.PATH,
    MALLOC_ARENA_MAX: '2',
    NODE_COMPILE_CACHE: cacheFolder,
    ...(tasksModule !== undefined && { TASKS: tasksModule }),
  };
  const child = hasSetpriv
    ? fork(CHILD, {
        env,
        execPath: 'setpriv',
        execArgv: ['--pdeathsig', 'KILL', '--', process.execPath, ...NODE_FLAGS],
      })
    : fork(CHILD, { env, execArgv: NODE_FLAGS });
  try {
    // If memory runs out all the same, the kernel takes a sandbox and nothing else.
    writeFileSync(`/proc/${child.pid}/oom_score_adj`, '1000');
  } catch {
    // Not Linux.
  }
  return child;
}

/** Makes the kernel measure the peak of resident memory anew from now. */
export function resetPeakMemory(child: ChildProcess): void {
  try {
    writeFileSync(`/proc/${child.pid}/clear_refs`, '5');
  } catch {
    // Not Linux, or the process is gone: the peak is then that of its whole life, or unknown.
  }
}

/** Resident memory in MB, now and at its peak; null where the kernel does not tell. */
export function readMemory(child: ChildProcess): { nowMb: number; peakMb: number } | null {
  try {
    const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
    const megabytes = (name: string) => Math.ceil(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024);
    return { nowMb: megabytes('VmRSS'), peakMb: megabytes('VmHWM') };
  } catch {
    return null;
  }
}
