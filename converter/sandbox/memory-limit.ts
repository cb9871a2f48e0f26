import { execFile } from 'node:child_process';
import { setPriority } from 'node:os';
import { promisify } from 'node:util';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { readFolder, readProc, writeProc } from '../../runtime/procfs.ts';

/**
 * What holds a sandbox to its reservation, by process id, three lines deep: a cap that the kernel keeps, a watchdog that
 * kills, and the kernel's killer, which is told to take sandboxes first. All of it is Linux; elsewhere nothing is known,
 * and nothing is held.
 */

const MB = 2 ** 20;
/** What V8 and the kernel may take beyond what a cap counts; measured peaks stay within 8 MB of it. */
const SLACK_MB = 8;
const WATCH_MS = 50;
/** Behind the API and small conversions, when cores are short. */
const LOW_PRIORITY = 10;

/** Of the kernel's clock for processes, on every machine that Node runs on. */
const TICKS_A_SECOND = 100;

const run = promisify(execFile);

/** Resident memory in MB, now and at its peak, and private writable address space, which is what a cap counts. */
export interface Memory {
  residentMb: number;
  peakMb: number;
  dataMb: number;
}

/** Null where the kernel does not tell, or the process is gone. */
export function readMemory(pid: number): Memory | null {
  const status = readProc(pid, 'status');
  const megabytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1024;
  const memory = { residentMb: megabytes('VmRSS'), peakMb: megabytes('VmHWM'), dataMb: megabytes('VmData') };
  return Number.isNaN(memory.residentMb) ? null : memory;
}

/** Seconds of processor time that the process has taken so far; null where the kernel does not tell. */
export function cpuSeconds(pid: number): number | null {
  // After the name in brackets, which may hold anything: state is the first field, user and system time the 12th and 13th.
  const fields = readProc(pid, 'stat').split(') ').at(-1)?.split(' ') ?? [];
  const ticks = Number(fields[11]) + Number(fields[12]);
  return Number.isNaN(ticks) ? null : ticks / TICKS_A_SECOND;
}

/**
 * Lets the process grow to `memoryMb` of resident memory and no further: an allocation beyond that fails. To be called
 * when its libraries are loaded: their address space, most of it never used, is read first and added. `capMb` is what
 * an earlier call gave; a cap that still fits is left as it is. Gives null where there is no prlimit, or no process.
 * `uid` is the user of the process, null for the own one.
 */
export async function capMemory(
  pid: number,
  memoryMb: number,
  capMb: number | null,
  uid: number | null = null,
): Promise<number | null> {
  const memory = readMemory(pid);
  if (memory === null) return null;
  const cap = Math.floor(memory.dataMb + memoryMb - SLACK_MB - memory.residentMb);
  if (capMb !== null && capMb <= cap && cap - capMb <= SLACK_MB) return capMb;
  // The soft limit alone, so that it can be raised again for the next task.
  // Its own user may set it; root may need a privilege for that which containers do not have.
  return run('prlimit', ['--pid', String(pid), `--data=${cap * MB}:`], uid === null ? {} : { uid, gid: uid }).then(
    () => cap,
    () => null,
  );
}

/**
 * Follows the resident memory of a process and all that it has started; calls `onOver` once it is above `memoryMb`.
 * `besidesMb` is memory that no process holds.
 * `stop` ends that and gives the highest sum seen, in MB, or null where the kernel does not tell.
 */
export function watchMemory(
  pid: number,
  memoryMb: number,
  onOver: () => void,
  {
    startedBy = () => descendantsOf(pid),
    besidesMb = () => 0,
  }: { startedBy?: () => number[]; besidesMb?: () => number } = {},
): { stop(): number | null } {
  resetPeak(pid);
  let peakMb = 0;
  const look = () => {
    const memory = readMemory(pid);
    if (memory === null) return;
    const others = startedBy().reduce((sum, child) => sum + (readMemory(child)?.residentMb ?? 0), besidesMb());
    peakMb = Math.max(peakMb, memory.peakMb, memory.residentMb + others);
    if (memory.residentMb + others > memoryMb) onOver();
  };
  const timer = setInterval(look, WATCH_MS);
  return {
    stop() {
      clearInterval(timer);
      look();
      return peakMb > 0 ? Math.ceil(peakMb) : null;
    },
  };
}

/** If memory runs out all the same, the kernel takes this process and no other. */
export function dieFirst(pid: number): void {
  writeProc(pid, 'oom_score_adj', '1000');
}

/**
 * For good: raising it again would take a privilege. A thread starts others with its own priority. Where Linux groups
 * processes by session, priorities count within a group alone: a sandbox, which leads a session, takes its group along.
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

/** Makes the kernel measure the peak anew from now. */
function resetPeak(pid: number): void {
  writeProc(pid, 'clear_refs', '5');
}
