import { setPriority } from 'node:os';
import { readFolder, readProc, writeProc } from '../../runtime/procfs.ts';

/** The priority of large conversions: below the API and small conversions. */
const LOW_PRIORITY = 10;
/** The kernel's clock for processes, on every machine that Node supports. */
const TICKS_PER_SECOND = 100;

/** The processor time in seconds that a process has used; null where the kernel does not report it. */
export function cpuSeconds(pid: number): number | null {
  // The name in brackets may contain anything. After it, user and system time are the 12th and 13th field.
  const fields = readProc(pid, 'stat').split(') ').at(-1)?.split(' ') ?? [];
  const ticks = Number(fields[11]) + Number(fields[12]);
  return Number.isNaN(ticks) ? null : ticks / TICKS_PER_SECOND;
}

/**
 * Lowers the priority of a process permanently: raising it again would require a privilege. Where Linux groups processes
 * by session, priorities count only within a group, so the group of the sandbox is lowered too.
 */
export function lowerPriority(pid: number): void {
  writeProc(pid, 'autogroup', String(LOW_PRIORITY));
  for (const thread of readFolder(`/proc/${pid}/task`)) {
    try {
      setPriority(Number(thread), LOW_PRIORITY);
    } catch {
      // The thread has ended.
    }
  }
}
