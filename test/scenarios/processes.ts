import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** The processes that a process has started, as Linux tells. */
export function childrenOf(pid: number): number[] {
  return threadsOf(pid).flatMap((thread) =>
    readProc(pid, `task/${thread}/children`).split(' ').filter(Boolean).map(Number),
  );
}

/** Those, and theirs, and so on. */
export function descendantsOf(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendantsOf(child)]);
}

/** The processes that run the tasks of a converter, without those that hold their namespaces. */
export function sandboxesOf(converter: number): number[] {
  return descendantsOf(converter).filter((pid) => commandOf(pid).endsWith('sandbox/child.ts\0'));
}

/** The process that a task names. In a PID namespace it has another id, and its folder tells which namespace that is. */
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

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
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
