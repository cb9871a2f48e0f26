import { readdirSync, readFileSync } from 'node:fs';

/** The memory and CPU of processes, from /proc. A process that has ended counts as zero. */

const PAGE_KB = 4;
const TICKS_A_SECOND = 100;

/** The processes below each root, the root included, from one list of all processes. */
export function treesOf(roots: number[]): Map<number, number[]> {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    // The name may contain blanks and parentheses; state and parent follow the last one.
    const parent = Number(read(Number(entry), 'stat').split(') ').at(-1)?.split(' ')[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const below = (pid: number): number[] => [pid, ...(children.get(pid) ?? []).flatMap(below)];
  return new Map(roots.map((root) => [root, below(root)]));
}

/** Proportional set size: shared pages are divided among their processes, so that sums are right. */
export function pssMb(pids: number[]): number {
  return pids.reduce((sum, pid) => sum + pssKb(pid), 0) / 1024;
}

/** Resident memory, which is fast to read and never below the PSS. */
export function residentMb(pids: number[]): number {
  return pids.reduce((sum, pid) => sum + Number(read(pid, 'statm').split(' ')[1] ?? 0) * PAGE_KB, 0) / 1024;
}

/** The CPU time of processes and of their ended children. */
export function cpuSecondsOf(pids: number[]): number {
  // After the name in brackets: user and system time, then those of children that were waited for.
  const ticks = pids.flatMap((pid) => read(pid, 'stat').split(') ').at(-1)?.split(' ').slice(11, 15).map(Number) ?? []);
  return ticks.reduce((sum, each) => sum + each, 0) / TICKS_A_SECOND;
}

/** The peak resident memory of a process. */
export function peakMb(pid: number): number {
  return Number(/^VmHWM:\s+(\d+)/m.exec(read(pid, 'status'))?.[1] ?? 0) / 1024;
}

function pssKb(pid: number): number {
  return Number(/^Pss:\s+(\d+)/m.exec(read(pid, 'smaps_rollup'))?.[1] ?? 0);
}

function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}
