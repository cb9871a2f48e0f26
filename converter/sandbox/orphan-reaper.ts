import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { childrenOf, descendantsOf, killAll } from '../../runtime/process-tree.ts';
import { attempt, openKernel } from './isolation/kernel.ts';

/**
 * Processes that sandboxes without a PID namespace have left behind. The kernel gives them to this process. The
 * filter of system calls, which they cannot lose, sets them apart from its own children.
 */

const PR_SET_CHILD_SUBREAPER = 36;
const WNOHANG = 1;
const RETRY_MS = 20;

export interface OrphanReaper {
  /** Kills what is below no sandbox of `living`, and resolves when it is gone. */
  reap(living: () => number[]): Promise<void>;
}

/** From now on, orphans of this process's descendants become its children. Null where that cannot be. */
export async function startOrphanReaper(): Promise<OrphanReaper | null> {
  const kernel = await openKernel();
  const ownFilters = filtersOf(process.pid);
  if (kernel === null || ownFilters === null) return null;
  kernel('prctl', PR_SET_CHILD_SUBREAPER, 1);
  const isOrphan = (pid: number, living: number[]) => !living.includes(pid) && (filtersOf(pid) ?? 0) > ownFilters;
  return {
    async reap(living) {
      for (;;) {
        const orphans = childrenOf(process.pid).filter((pid) => isOrphan(pid, living()));
        if (orphans.length === 0) return;
        killAll(orphans.flatMap((pid) => [...descendantsOf(pid), pid]));
        await delay(RETRY_MS);
        // Node waits for its own children alone.
        for (const pid of orphans) attempt(() => kernel('wait4', pid, 0, WNOHANG, 0), 'ECHILD');
      }
    },
  };
}

/** How many filters of system calls a process has; null where the kernel does not tell. */
function filtersOf(pid: number): number | null {
  try {
    const count = /^Seccomp_filters:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return count === undefined ? null : Number(count);
  } catch {
    return null;
  }
}
