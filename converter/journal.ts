import type { Database } from '../db/client.ts';
import { appendLogs, type LogLine } from '../db/job-logs.ts';
import type { Progress } from '../db/schema.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { recordProgress } from '../jobs/progress.ts';
import type { Logger } from '../runtime/log.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';
import { MAX_LINES } from './bounds.ts';
import type { TaskEvent } from './run-task.ts';

/** A task that logs faster than Postgres stores its lines waits. */
const MAX_WAITING_LINES = 100;
/** Lines that come within this time are written together: each commit that notifies waits for the one before it. */
const TOGETHER_MS = 250;
/** Of the progress within this time only the last is written. */
const PROGRESS_MS = 1_000;

/** Writes what an attempt logs and how far it has come, bounded, without holding it up. */
export function createJournal(db: Database, job: ClaimedJob, log: Logger) {
  let lines: LogLine[] = [];
  let progress: Progress | undefined;
  let kept = 0;
  let writing: Promise<void> | undefined;
  /** Of the next write that ends. */
  let written = Promise.withResolvers<void>();
  let isClosing = false;
  /** Set when nothing more may wait for other lines. */
  const hurry = new WakeFlag();
  let progressAt = -Infinity;

  function takeProgress(): Progress | undefined {
    const isDue = isClosing || performance.now() - progressAt >= PROGRESS_MS;
    if (progress === undefined || !isDue) return undefined;
    const due = progress;
    progress = undefined;
    progressAt = performance.now();
    return due;
  }

  async function write(): Promise<void> {
    while (lines.length > 0 || progress !== undefined) {
      const newLines = lines;
      lines = [];
      const newProgress = takeProgress();
      try {
        if (newLines.length > 0) await appendLogs(db, job, newLines);
        if (newProgress !== undefined) await recordProgress(db, job, newProgress);
      } catch (error) {
        // Not worth an attempt: the work itself goes on.
        log.warn({ err: error, lines: newLines.length }, 'log lines or progress not kept');
      }
      written.resolve();
      written = Promise.withResolvers();
      if (!isClosing) await hurry.wait(TOGETHER_MS);
    }
    writing = undefined;
  }

  return {
    /** Takes reports within their bounds. Gives a promise when too many wait, which resolves when some are written. */
    tell(event: TaskEvent & { kind: 'log' | 'progress' }): Promise<void> | undefined {
      if (event.kind === 'progress') progress = event.progress;
      else if (kept < MAX_LINES) {
        kept++;
        const { kind: _, ...line } = event;
        lines.push({
          at: new Date(),
          ...(kept < MAX_LINES ? line : { level: 'warn', message: 'further lines are dropped' }),
        });
      }
      writing ??= write();
      if (lines.length <= MAX_WAITING_LINES) return undefined;
      hurry.set();
      return written.promise;
    },
    /** Resolves when all of it is written. */
    async close(): Promise<void> {
      isClosing = true;
      hurry.set();
      await writing;
    },
  };
}
