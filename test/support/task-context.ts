import path from 'node:path';
import type { UploadTaskContext } from '../../conversion/upload-task.ts';

export interface TaskReports {
  logs: { level: string; message: string }[];
  progress: [done: number, total: number | undefined][];
}

/** The context of a task, with its files in the folder `root`; `reports` collects its log and progress. */
export function taskContext<Payload>(
  payload: Payload,
  root: string,
  overrides: Partial<UploadTaskContext<Payload>> = {},
): UploadTaskContext<Payload> & { reports: TaskReports } {
  const reports: TaskReports = { logs: [], progress: [] };
  return {
    payload,
    attempt: 1,
    signal: new AbortController().signal,
    log: (level, message) => reports.logs.push({ level, message }),
    progress: (done, total) => reports.progress.push([done, total]),
    dependencies: [],
    snooze: (seconds) => {
      throw new Error(`snoozes for ${seconds} s`);
    },
    files: { originals: [], pages: [] },
    output: path.join(root, 'file'),
    reports,
    ...overrides,
  };
}
