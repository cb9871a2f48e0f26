import type { Task } from '../jobs/task.ts';
import type { Logger } from '../runtime/log.ts';
import { PrivateFolder } from './files/private-folder.ts';
import { runTask, type TaskOutcome, type TaskRequest } from './run-task.ts';
import {
  ABORT_GRACE_MS,
  outcomeAfterStop,
  type Prepare,
  type RunOptions,
  type RunResult,
  type TaskRunner,
} from './task-runner.ts';

const NOT_STOPPED: TaskOutcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'the task did not stop after abort' },
  retryable: true,
};

/**
 * Runs a trusted task in this process, without a sandbox. It cannot be killed: a task that ignores its abort signal is
 * abandoned, and its later events are dropped.
 */
export class TrustedRunner implements TaskRunner {
  readonly #task: Task;
  readonly #workFolder: string;
  /** The log of the job. */
  readonly #log: Logger;
  #folder: PrivateFolder | undefined;

  constructor(task: Task, workFolder: string, log: Logger) {
    this.#task = task;
    this.#workFolder = workFolder;
    this.#log = log;
  }

  async run(prepare: Prepare, options: RunOptions): Promise<RunResult> {
    this.#folder ??= new PrivateFolder(this.#workFolder);
    await this.#folder.begin();
    const request = await prepare(this.#folder);
    const { deadlineMs, signal } = options;
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(new Error('timeout exceeded')), deadlineMs);
    const ended = await this.#runUntilStopped(request, AbortSignal.any([signal, timeout.signal]), options.onEvent);
    clearTimeout(timer);
    const outcome = outcomeAfterStop(ended, { isTimedOut: timeout.signal.aborted, signal, deadlineMs });
    if (outcome.kind === 'failed') this.#log.info(outcome, 'task failed');
    return { outcome, step: null, spentSeconds: 0, peakMemoryMb: null };
  }

  distrust(): void {
    // The code is trusted, so it is used again.
  }

  async release(): Promise<void> {
    await this.#folder?.remove().catch((error) => this.#log.warn({ err: error }, 'folder not removed'));
  }

  async #runUntilStopped(
    request: TaskRequest,
    signal: AbortSignal,
    onEvent: RunOptions['onEvent'],
  ): Promise<TaskOutcome> {
    const abandoned = Promise.withResolvers<TaskOutcome>();
    let timer: NodeJS.Timeout | undefined;
    const onAbort = () => {
      timer = setTimeout(() => abandoned.resolve(NOT_STOPPED), ABORT_GRACE_MS);
    };
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    let hasEnded = false;
    const running = runTask(this.#task, request, signal, (event) => hasEnded || onEvent(event));
    const outcome = await Promise.race([running, abandoned.promise]);
    hasEnded = true;
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    return outcome;
  }
}
