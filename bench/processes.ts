import { readdirSync, readFileSync } from 'node:fs';

/** What processes take, from /proc. One that is gone takes nothing. */

const PAGE_KB = 4;
const TICKS_A_SECOND = 100;

/** The processes under each root, it among them, from one look at all that run. */
export function treesOf(roots: number[]): Map<number, number[]> {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    // The name before it may hold blanks and brackets; state and parent follow its last bracket.
    const parent = Number(read(Number(entry), 'stat').split(') ').at(-1)?.split(' ')[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const below = (pid: number): number[] => [pid, ...(children.get(pid) ?? []).flatMap(below)];
  return new Map(roots.map((root) => [root, below(root)]));
}

/** Shared pages are divided among those who share them, so that sums are true. */
export function pssMb(pids: number[]): number {
  return pids.reduce((sum, pid) => sum + pssKb(pid), 0) / 1024;
}

/** Cheap to ask, and never below the PSS. */
export function residentMb(pids: number[]): number {
  return pids.reduce((sum, pid) => sum + Number(read(pid, 'statm').split(' ')[1] ?? 0) * PAGE_KB, 0) / 1024;
}

/** CPU that processes have taken, with those below them that have ended. */
export function cpuSecondsOf(pids: number[]): number {
  // After the name in brackets: user and system time, then those of children that were waited for.
  const ticks = pids.flatMap((pid) => read(pid, 'stat').split(') ').at(-1)?.split(' ').slice(11, 15).map(Number) ?? []);
  return ticks.reduce((sum, each) => sum + each, 0) / TICKS_A_SECOND;
}

/** Highest resident memory that a process has had. */
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
