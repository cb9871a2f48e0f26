import path from 'node:path';
import type { ConversionContext, Part, Step } from '../conversion/conversion-task.ts';
import type { Inspection, PageReport } from '../conversion/record-pages.ts';
import type { LogLevel, Progress } from '../db/schema.ts';
import { isStorable } from '../db/storable.ts';
import type { Task } from '../jobs/task.ts';
import {
  AppError,
  ERROR_CODES,
  errorCode,
  errorMessage,
  isOutOfMemory,
  memberOf,
  type PublicError,
  publicError,
  textOf,
} from '../runtime/errors.ts';
import { FILE_NAME, pageName } from './files/output-names.ts';
import {
  isRecord,
  limitLine,
  limitPage,
  limitProgress,
  limitText,
  MAX_DELAY_SECONDS,
  MAX_DETAIL_LENGTH,
  MAX_LINES,
  MAX_MESSAGE_LENGTH,
  MAX_RESULT_LENGTH,
} from './report-limits.ts';

/** The input of a running task: plain data, because it is sent to the sandbox. */
export type TaskRequest = Pick<
  ConversionContext<Record<string, unknown>>,
  | 'payload'
  | 'attempt'
  | 'dependencies'
  | 'files'
  | 'input'
  | 'password'
  | 'settledPages'
  | 'failedSteps'
  | 'reservation'
  | 'limits'
> & {
  type: string;
  /** The folder for the files that the task makes. */
  outputFolder: string;
};

/** A report of a running task. */
export type TaskEvent =
  | { kind: 'inspected'; found: Inspection }
  | { kind: 'page'; report: PageReport }
  | { kind: 'step'; step: Step }
  | { kind: 'progress'; progress: Progress }
  | { kind: 'log'; level: LogLevel; message: string; data?: Record<string, unknown> | undefined };

/** How a task ended. `detail` is only logged. */
export type TaskOutcome =
  | { kind: 'completed'; result: Record<string, unknown> }
  | { kind: 'split'; parts: Part[] }
  | { kind: 'snoozed'; seconds: number }
  | {
      kind: 'failed';
      error: PublicError;
      retryable: boolean;
      retryAfterSeconds?: number | undefined;
      detail?: string | undefined;
    };

const OUT_OF_MEMORY: PublicError = { code: 'out_of_memory', message: 'the task ran out of memory' };

/**
 * Runs a task in this process: in the sandbox, or in the converter if the task is trusted. Never rejects. `onEvent` gets
 * reports within their limits, and none after the end of the task.
 */
export async function runTask(
  task: Task | undefined,
  request: TaskRequest,
  signal: AbortSignal,
  onEvent: (event: TaskEvent) => void,
): Promise<TaskOutcome> {
  if (task === undefined) {
    // During an update, another converter may know the type.
    const message = `this converter does not know the job type ${request.type}`;
    return failedOutcome(new AppError('task_failed', message, { retryable: true }), false);
  }
  return new TaskRun(task, request, signal, onEvent).run();
}

class TaskRun {
  readonly #task: Task;
  readonly #request: TaskRequest;
  readonly #signal: AbortSignal;
  readonly #onEvent: (event: TaskEvent) => void;
  #lineCount = 0;
  /** Set once the task has called `snooze`. */
  #snoozeSeconds: number | undefined;
  /** Set once the task has called `split`. */
  #parts: Part[] | undefined;
  #hasEnded = false;

  constructor(task: Task, request: TaskRequest, signal: AbortSignal, onEvent: (event: TaskEvent) => void) {
    this.#task = task;
    this.#request = request;
    this.#signal = signal;
    this.#onEvent = onEvent;
  }

  async run(): Promise<TaskOutcome> {
    try {
      const result = await this.#task.run(this.#context());
      // A task may catch the error that `snooze` throws.
      return this.#snoozed() ?? this.#split() ?? { kind: 'completed', result: checkedResult(result) };
    } catch (error) {
      return this.#snoozed() ?? failedOutcome(error, this.#task.internal === true);
    } finally {
      this.#hasEnded = true;
    }
  }

  #snoozed(): TaskOutcome | undefined {
    return this.#snoozeSeconds === undefined ? undefined : { kind: 'snoozed', seconds: this.#snoozeSeconds };
  }

  #split(): TaskOutcome | undefined {
    return this.#parts === undefined ? undefined : { kind: 'split', parts: this.#parts };
  }

  #context(): ConversionContext<Record<string, unknown>> {
    const { type: _, outputFolder, ...given } = this.#request;
    return {
      ...given,
      payload: payloadOf(this.#task, given.payload),
      signal: this.#signal,
      log: (level, message, data) => {
        if (++this.#lineCount <= MAX_LINES) this.#report({ kind: 'log', ...limitLine(level, message, data) });
      },
      progress: (done, total) => {
        const progress = limitProgress(done, total);
        if (progress !== undefined) this.#report({ kind: 'progress', progress });
      },
      snooze: (seconds) => {
        this.#snoozeSeconds = checkedSnooze(seconds);
        throw new Error(`snoozes for ${seconds} s`);
      },
      output: path.join(outputFolder, FILE_NAME),
      pageOutput: (page) => path.join(outputFolder, pageName(page)),
      inspected: (found) => this.#report({ kind: 'inspected', found }),
      step: (step) => this.#report({ kind: 'step', step }),
      page: (report) => this.#report({ kind: 'page', report: limitPage(report) }),
      split: (parts) => {
        this.#parts = parts;
      },
    };
  }

  #report(event: TaskEvent): void {
    if (!this.#hasEnded) this.#onEvent(event);
  }
}

/** Only errors of clients' tasks and AppErrors are public; other errors of internal tasks are not. */
function failedOutcome(error: unknown, isInternal: boolean): TaskOutcome {
  const isOurs = error instanceof AppError;
  const known = isInternal || isOurs ? publicError(error) : taskFailed(error);
  const { code, message } = isOutOfMemory(error) ? OUT_OF_MEMORY : known;
  const cause = error instanceof Error && error.cause !== undefined ? `; cause: ${textOf(error.cause)}` : '';
  return {
    kind: 'failed',
    error: {
      code: ERROR_CODES.includes(code) ? code : 'task_failed',
      message: limitText(message, MAX_MESSAGE_LENGTH),
    },
    retryable: isOurs ? error.retryable : true,
    ...(isOurs && delayOf(error)),
    detail: limitText(`${error instanceof Error ? error.stack : textOf(error)}${cause}`, MAX_DETAIL_LENGTH),
  };
}

function payloadOf(task: Task, payload: unknown): Record<string, unknown> {
  const { data, error } = task.payload.safeParse(payload);
  if (data !== undefined) return data;
  const issues = error?.issues.map((issue) => [...issue.path, issue.message].join(': '));
  throw new AppError('task_failed', `invalid payload: ${issues?.join('; ')}`, { retryable: true });
}

function checkedSnooze(seconds: number): number {
  if (seconds >= 1 && seconds <= MAX_DELAY_SECONDS) return seconds;
  throw new AppError('task_failed', `snooze: must be between 1 and ${MAX_DELAY_SECONDS} seconds (got ${seconds})`);
}

function delayOf({ retryAfterSeconds: seconds }: AppError): { retryAfterSeconds?: number } {
  return seconds === undefined || Number.isNaN(seconds)
    ? {}
    : { retryAfterSeconds: Math.min(Math.max(seconds, 0), MAX_DELAY_SECONDS) };
}

/** The message of a task's error is public; a system error names paths, so only its code is. */
function taskFailed(error: unknown): PublicError {
  const syscall = memberOf(error, 'syscall');
  if (syscall !== undefined) {
    return { code: 'task_failed', message: `system call ${syscall} failed: ${errorCode(error)}` };
  }
  const message = textOf(error instanceof Error ? error.message : error);
  return { code: 'task_failed', message: message || 'the task failed without a message' };
}

/** A result must be storable as JSON. */
function checkedResult(result: unknown): Record<string, unknown> {
  let json: string;
  try {
    // A function has no JSON.
    json = JSON.stringify(result ?? {}) ?? 'null';
  } catch (cause) {
    throw new AppError('task_failed', `invalid result: not JSON: ${errorMessage(cause)}`);
  }
  if (json.length > MAX_RESULT_LENGTH) {
    throw new AppError(
      'task_failed',
      `invalid result: must have at most ${MAX_RESULT_LENGTH} characters of JSON (got ${json.length})`,
    );
  }
  const value = JSON.parse(json);
  if (!isStorable(value))
    throw new AppError('task_failed', 'invalid result: contains NUL or a lone surrogate, or is nested too deep');
  return isRecord(value) ? value : { output: value };
}
