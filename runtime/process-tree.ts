import { readFolder, readProc } from './procfs.ts';

/** Kills processes, and process groups by their negative ids. */
export function killAll(targets: number[]): void {
  for (const target of targets) {
    try {
      process.kill(target, 'SIGKILL');
    } catch {
      // The process has ended.
    }
  }
}

/** All processes below a process. */
export function descendantsOf(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendantsOf(child)]);
}

/** The processes that a process has started, oldest first. */
export function childrenOf(pid: number): number[] {
  return readFolder(`/proc/${pid}/task`).flatMap((thread) =>
    readProc(pid, `task/${thread}/children`).split(' ').filter(Boolean).map(Number),
  );
}
