import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { childrenOf, descendantsOf, killAll } from '../../runtime/process-tree.ts';
import { ignoreErrors, openKernel } from './isolation/kernel.ts';

/**
 * Kills processes that sandboxes without a PID namespace leave behind. The kernel makes them children of this process. Their
 * seccomp filter, which they cannot remove, distinguishes them from its other children.
 */

const PR_SET_CHILD_SUBREAPER = 36;
const WNOHANG = 1;
const RETRY_MS = 20;

export interface OrphanReaper {
  /** Kills orphans that are not among the processes of `living`, and resolves when they are gone. */
  reap(living: () => number[]): Promise<void>;
}

/** Makes orphaned descendants children of this process. Null where the kernel does not support it. */
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
        // Node reaps only the children that it started.
        for (const pid of orphans) ignoreErrors(() => kernel('wait4', pid, 0, WNOHANG, 0), 'ECHILD');
      }
    },
  };
}

/** The number of seccomp filters of a process; null where the kernel does not report it. */
function filtersOf(pid: number): number | null {
  try {
    const count = /^Seccomp_filters:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return count === undefined ? null : Number(count);
  } catch {
    return null;
  }
}
