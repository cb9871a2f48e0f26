import { readlinkSync } from 'node:fs';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { readProc } from '../../runtime/procfs.ts';

/** The processes that run the tasks of a converter, without those that hold their namespaces. */
export function sandboxesOf(converter: number): number[] {
  return descendantsOf(converter).filter((pid) => commandOf(pid).endsWith('sandbox/child.ts\0'));
}

/** The process that a task names. In a PID namespace it has another id; its folder identifies the namespace. */
export function processOf(ancestor: number, { pid, cwd }: { pid: number; cwd: string }): number | undefined {
  return descendantsOf(ancestor).find((one) => innermostId(one) === pid && folderOf(one) === cwd);
}

function innermostId(pid: number): number {
  const ids = /^NSpid:\s+(.*)/m.exec(readStatus(pid))?.[1] ?? '';
  return Number(ids.split(/\s+/).at(-1));
}

function folderOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined;
  }
}

/** True if the process exists and is not a zombie. */
export function isAlive(pid: number): boolean {
  const status = readStatus(pid);
  return status !== '' && !/^State:\s+[ZX]/m.test(status);
}

/** The resident memory of a process in MB. */
export function residentMb(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readStatus(pid))?.[1]) / 1024;
}

/** True if the process runs on a CPU or waits for one. */
export function burnsCpu(pid: number): boolean {
  return /^State:\s+R/m.test(readStatus(pid));
}

/** The command line of a process; empty when it is gone. */
export function commandOf(pid: number): string {
  return readProc(pid, 'cmdline');
}

function readStatus(pid: number): string {
  return readProc(pid, 'status');
}
