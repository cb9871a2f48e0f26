import { readdirSync, readFileSync } from 'node:fs';

/** The processes that a process has started, as Linux tells. */
export function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && parentOf(Number(name)) === pid)
    .map(Number);
}

/** Those, and theirs, and so on. */
export function descendantsOf(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendantsOf(child)]);
}

/** Whether the process is there and is not a zombie. */
export function isAlive(pid: number): boolean {
  const status = readStatus(pid);
  return status !== '' && !/^State:\s+[ZX]/m.test(status);
}

/** The resident memory of a process in MB. */
export function residentMb(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readStatus(pid))?.[1]) / 1024;
}

/** Whether the process is on a CPU, or waits for one, just now. */
export function burnsCpu(pid: number): boolean {
  return /^State:\s+R/m.test(readStatus(pid));
}

/** The command line of a process; empty when it is gone. */
export function commandOf(pid: number): string {
  return readProc(pid, 'cmdline');
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(readStatus(pid))?.[1]);
}

function readStatus(pid: number): string {
  return readProc(pid, 'status');
}

function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}
