import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

/** A file of a process in /proc; empty when there is none. */
export function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

/** Writes a file of a process in /proc, if it exists. */
export function writeProc(pid: number, file: string, text: string): void {
  try {
    writeFileSync(`/proc/${pid}/${file}`, text);
  } catch {
    // Not Linux, or the process has ended.
  }
}

/** The names in a folder; none when there is no such folder. */
export function readFolder(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
