import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { readProc, writeProc } from '../../runtime/procfs.ts';

/**
 * Three layers keep a sandbox within its reservation: a limit that the kernel enforces, a watchdog that kills, and the
 * kernel's OOM killer, which kills sandboxes first. All of them need Linux; elsewhere there is no limit.
 */

const MB = 2 ** 20;
/** Memory that V8 and the kernel may use and the limit does not count; measured peaks stay within 8 MB of the limit. */
const SLACK_MB = 8;
const WATCH_MS = 50;

const run = promisify(execFile);

export interface Memory {
  residentMb: number;
  peakMb: number;
  /** Private writable address space, which the limit counts. */
  dataMb: number;
}

/** Null where the kernel does not report it, or the process is gone. */
export function readMemory(pid: number): Memory | null {
  const status = readProc(pid, 'status');
  const megabytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1024;
  const memory = { residentMb: megabytes('VmRSS'), peakMb: megabytes('VmHWM'), dataMb: megabytes('VmData') };
  return Number.isNaN(memory.residentMb) ? null : memory;
}

/**
 * Limits a process to `memoryMb` of resident memory: larger allocations fail. Call it after the libraries are loaded:
 * their address space, most of it unused, is added to the limit. Returns the limit, for the next call as `currentMb`,
 * which keeps a limit that still fits. Returns null where there is no prlimit, or the process is gone. `uid` is the user of the process,
 * null for the user of the converter.
 */
export async function limitMemory(
  pid: number,
  memoryMb: number,
  currentMb: number | null,
  uid: number | null = null,
): Promise<number | null> {
  const memory = readMemory(pid);
  if (memory === null) return null;
  const limitMb = Math.floor(memory.dataMb + memoryMb - SLACK_MB - memory.residentMb);
  if (currentMb !== null && currentMb <= limitMb && limitMb - currentMb <= SLACK_MB) return currentMb;
  // Only the soft limit, which the next task can raise. Root may lack the privilege in containers, so the user of the
  // process sets it.
  const options = uid === null ? {} : { uid, gid: uid };
  return run('prlimit', ['--pid', String(pid), `--data=${limitMb * MB}:`], options).then(
    () => limitMb,
    () => null,
  );
}

export interface MemoryWatch {
  /** Returns the peak in MB, or null where the kernel does not report it. */
  stop(): number | null;
}

/**
 * Watches the resident memory of a process and its descendants, and calls `onOver` when it exceeds `memoryMb`.
 * `fileMb` is memory that files use.
 */
export function watchMemory(
  pid: number,
  memoryMb: number,
  onOver: () => void,
  {
    descendants = () => descendantsOf(pid),
    fileMb = () => 0,
  }: { descendants?: () => number[]; fileMb?: () => number } = {},
): MemoryWatch {
  resetPeak(pid);
  let peakMb = 0;
  const check = () => {
    const memory = readMemory(pid);
    if (memory === null) return;
    const othersMb = descendants().reduce((sum, child) => sum + (readMemory(child)?.residentMb ?? 0), fileMb());
    peakMb = Math.max(peakMb, memory.peakMb, memory.residentMb + othersMb);
    if (memory.residentMb + othersMb > memoryMb) onOver();
  };
  const timer = setInterval(check, WATCH_MS);
  return {
    stop() {
      clearInterval(timer);
      check();
      return peakMb > 0 ? Math.ceil(peakMb) : null;
    },
  };
}

/** Makes the kernel's OOM killer choose this process before all others. */
export function setOomScore(pid: number): void {
  writeProc(pid, 'oom_score_adj', '1000');
}

/** The kernel measures the peak from now on. */
function resetPeak(pid: number): void {
  writeProc(pid, 'clear_refs', '5');
}
