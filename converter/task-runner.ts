import type { Step } from '../jobs/task.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { PrivateFolder } from './files/private-folder.ts';
import type { TaskEvent, TaskOutcome, TaskRequest } from './run-task.ts';

/** Runs the task of one attempt: `sandbox/lease.ts` in a sandbox, `trusted-runner.ts` in the converter. */
export interface TaskRunner {
  /**
   * Runs the task once. The files that it made stay until `release`. Rejects only when `prepare` does. A run whose sandbox
   * ends abnormally may be repeated.
   */
  run(prepare: Prepare, options: RunOptions): Promise<RunResult>;
  /** Ends the sandbox, after it sent a result that was rejected. */
  distrust(): void;
  /** Frees what the runs used. Called once, after the last run. */
  release(): Promise<void>;
}

/** Makes the request of a run, with its files in the folder of the process that runs the task. */
export type Prepare = (folder: PrivateFolder) => Promise<TaskRequest>;

export interface RunOptions {
  /** The time limit of all runs together. */
  deadlineMs: number;
  /** The time that earlier runs used. */
  spentMs?: number;
  /** The processor time in seconds that earlier runs spent on a page (null: on opening the file). */
  spentOnPage?: (page: number | null) => number;
  /** Aborting it asks the task to stop, and kills its sandbox after `ABORT_GRACE_MS`. */
  signal: AbortSignal;
  /** Gets the events in order, all of them before the run resolves. A returned promise delays further events. */
  onEvent: (event: TaskEvent) => unknown;
}

export interface RunResult {
  outcome: RunOutcome;
  /** The step that was running at the end, if the task reported one. */
  step: Step | null;
  /** Processor time that the page of that step used, in this run and earlier ones. */
  spentSeconds: number;
  peakMemoryMb: number | null;
}

/** `aborted` only after the signal was aborted. */
export type RunOutcome = TaskOutcome | { kind: 'aborted' } | AbnormalEnd;

/** The sandbox ended before its task reported an outcome. */
export interface AbnormalEnd {
  kind: 'died';
  how:
    | 'outgrown' // exceeded its memory limit
    | 'overdue' // exceeded the time limit of a step
    | 'overfull' // exceeded its disk limit
    | 'crashed'
    | 'killed' // by another process
    | 'violated'; // sent an invalid message
  error: PublicError;
}

/** The time between asking a task to stop and killing it. */
export const ABORT_GRACE_MS = 500;

/** The outcome of a run that may have been stopped: a stopped task has not failed, unless its time was up. */
export function outcomeAfterStop(
  outcome: RunOutcome,
  { isTimedOut, signal, deadlineMs }: { isTimedOut: boolean; signal: AbortSignal; deadlineMs: number },
): RunOutcome {
  if (isTimedOut) {
    const message = `took longer than ${deadlineMs / 1000} s`;
    return { kind: 'failed', error: { code: 'timeout', message }, retryable: true };
  }
  const hasFailed = outcome.kind === 'failed' || outcome.kind === 'died';
  return hasFailed && signal.aborted ? { kind: 'aborted' } : outcome;
}
