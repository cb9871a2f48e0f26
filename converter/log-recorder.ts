import type { Database } from '../db/client.ts';
import { appendLogs, type LogLine } from '../db/job-logs.ts';
import type { Progress } from '../db/schema.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { recordProgress } from '../jobs/progress.ts';
import type { Logger } from '../runtime/log.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';
import { MAX_LINES } from './report-limits.ts';
import type { TaskEvent } from './run-task.ts';

/** A task that logs faster than Postgres stores its lines waits. */
const MAX_WAITING_LINES = 100;
/** Lines are written in batches: each commit that notifies waits for the one before it. */
const BATCH_MS = 250;
/** Only the latest progress within this time is written. */
const PROGRESS_MS = 1_000;

/** Records the log lines and the progress of an attempt, without delaying its task. The owner calls `close()`. */
export class LogRecorder {
  readonly #db: Database;
  readonly #job: ClaimedJob;
  readonly #log: Logger;
  readonly #flush = new WakeFlag();
  /** Lines and progress that are not written yet. */
  #lines: LogLine[] = [];
  #progress: Progress | undefined;
  #lineCount = 0;
  #progressWrittenAt = -Infinity;
  #writing: Promise<void> | undefined;
  /** Resolves after the next write. */
  #written = Promise.withResolvers<void>();
  #isClosing = false;

  constructor(db: Database, job: ClaimedJob, log: Logger) {
    this.#db = db;
    this.#job = job;
    this.#log = log;
  }

  /** Takes a report within its limits. Returns a promise, which resolves after the next write, when too many lines wait. */
  record(event: TaskEvent & { kind: 'log' | 'progress' }): Promise<void> | undefined {
    if (event.kind === 'progress') this.#progress = event.progress;
    else this.#addLine(event);
    this.#writing ??= this.#write();
    if (this.#lines.length <= MAX_WAITING_LINES) return undefined;
    this.#flush.set();
    return this.#written.promise;
  }

  /** Resolves when everything is written. */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.#flush.set();
    await this.#writing;
  }

  #addLine({ level, message, data }: TaskEvent & { kind: 'log' }): void {
    if (this.#lineCount >= MAX_LINES) return;
    this.#lineCount++;
    const isLast = this.#lineCount === MAX_LINES;
    const line = isLast ? { level: 'warn' as const, message: 'further lines are dropped' } : { level, message, data };
    this.#lines.push({ at: new Date(), ...line });
  }

  async #write(): Promise<void> {
    while (this.#lines.length > 0 || this.#progress !== undefined) {
      const lines = this.#lines;
      this.#lines = [];
      const progress = this.#takeProgress();
      try {
        if (lines.length > 0) await appendLogs(this.#db, this.#job, lines);
        if (progress !== undefined) await recordProgress(this.#db, this.#job, progress);
      } catch (error) {
        // Lost log lines must not fail the attempt.
        this.#log.warn({ err: error, lines: lines.length }, 'job log lines or progress not stored');
      }
      this.#written.resolve();
      this.#written = Promise.withResolvers();
      if (!this.#isClosing) await this.#flush.wait(BATCH_MS);
    }
    this.#writing = undefined;
  }

  #takeProgress(): Progress | undefined {
    const isDue = this.#isClosing || performance.now() - this.#progressWrittenAt >= PROGRESS_MS;
    if (this.#progress === undefined || !isDue) return undefined;
    const progress = this.#progress;
    this.#progress = undefined;
    this.#progressWrittenAt = performance.now();
    return progress;
  }
}
