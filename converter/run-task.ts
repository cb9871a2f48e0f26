import path from 'node:path';
import type { ConversionContext, Part, Step } from '../conversion/conversion-task.ts';
import type { Inspection, PageReport } from '../conversion/record-pages.ts';
import type { LogLevel, Progress } from '../db/schema.ts';
import { isStorable } from '../db/storable.ts';
import type { Task } from '../jobs/task.ts';
import { AppError, ERROR_CODES, isOutOfMemory, type PublicError, publicError } from '../runtime/errors.ts';
import {
  boundedLine,
  boundedPage,
  boundedProgress,
  boundedText,
  isRecord,
  MAX_DELAY_SECONDS,
  MAX_DETAIL_LENGTH,
  MAX_LINES,
  MAX_MESSAGE_LENGTH,
  MAX_RESULT_LENGTH,
  textOf,
} from './bounds.ts';
import { FILE_NAME, pageName } from './files/output-names.ts';

/** All that a running task can know: plain data, since it crosses into the sandbox. */
export type TaskRequest = Pick<
  ConversionContext<Record<string, unknown>>,
  | 'payload'
  | 'attempt'
  | 'dependencies'
  | 'files'
  | 'input'
  | 'password'
  | 'settledPages'
  | 'avoid'
  | 'reservation'
  | 'limits'
> & {
  type: string;
  /** The folder for what the task makes. */
  outputFolder: string;
};

/** What a task tells while it runs. */
export type TaskEvent =
  | { kind: 'inspected'; found: Inspection }
  | { kind: 'page'; report: PageReport }
  | { kind: 'step'; step: Step }
  | { kind: 'progress'; progress: Progress }
  | { kind: 'log'; level: LogLevel; message: string; data?: Record<string, unknown> | undefined };

/** How a task ended by itself. `detail` is for our log alone. */
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

/**
 * Runs a task where this is called: in the sandbox, or in the converter for trusted ones. Never rejects. `onEvent` gets
 * reports within the bounds, and none after the task has ended.
 */
export async function runTask(
  task: Task | undefined,
  { type, outputFolder, ...given }: TaskRequest,
  signal: AbortSignal,
  onEvent: (event: TaskEvent) => void,
): Promise<TaskOutcome> {
  let hasEnded = false;
  const tell = (event: TaskEvent) => {
    if (!hasEnded) onEvent(event);
  };
  try {
    return await outcomeOf(task, { type, outputFolder, ...given }, signal, tell);
  } finally {
    hasEnded = true;
  }
}

async function outcomeOf(
  task: Task | undefined,
  { type, outputFolder, ...given }: TaskRequest,
  signal: AbortSignal,
  tell: (event: TaskEvent) => void,
): Promise<TaskOutcome> {
  let lines = 0;
  let snoozed: number | undefined;
  try {
    if (task === undefined) {
      // Another converter may: they are not all replaced at once.
      throw new AppError('task_failed', `this converter knows no job type ${type}`, { retryable: true });
    }
    let parts: Part[] | undefined;
    const context: ConversionContext<Record<string, unknown>> = {
      ...given,
      payload: payloadOf(task, given.payload),
      signal,
      log: (level, message, data) => {
        if (++lines <= MAX_LINES) tell({ kind: 'log', ...boundedLine(level, message, data) });
      },
      progress: (done, total) => {
        const progress = boundedProgress(done, total);
        if (progress !== undefined) tell({ kind: 'progress', progress });
      },
      snooze: (seconds) => {
        snoozed = checkedSnooze(seconds);
        throw new Error(`snoozes for ${seconds} s`);
      },
      output: path.join(outputFolder, FILE_NAME),
      pageOutput: (page) => path.join(outputFolder, pageName(page)),
      inspected: (found) => tell({ kind: 'inspected', found }),
      step: (step) => tell({ kind: 'step', step }),
      page: (report) => tell({ kind: 'page', report: boundedPage(report) }),
      split: (given) => {
        parts = given;
      },
    };
    const result = await task.run(context);
    // A task may have caught what `snooze` threw.
    if (snoozed !== undefined) return { kind: 'snoozed', seconds: snoozed };
    if (parts !== undefined) return { kind: 'split', parts };
    return { kind: 'completed', result: checkedResult(result) };
  } catch (error) {
    if (snoozed !== undefined) return { kind: 'snoozed', seconds: snoozed };
    const cause = error instanceof Error && error.cause !== undefined ? `; cause: ${textOf(error.cause)}` : '';
    const known = task?.internal || error instanceof AppError ? publicError(error) : taskFailed(error);
    if (isOutOfMemory(error)) Object.assign(known, OUT_OF_MEMORY);
    return {
      kind: 'failed',
      error: {
        code: ERROR_CODES.includes(known.code) ? known.code : 'task_failed',
        message: boundedText(known.message, MAX_MESSAGE_LENGTH),
      },
      retryable: error instanceof AppError ? error.retryable : true,
      ...(error instanceof AppError && delayOf(error)),
      detail: boundedText(`${error instanceof Error ? error.stack : textOf(error)}${cause}`, MAX_DETAIL_LENGTH),
    };
  }
}

const OUT_OF_MEMORY: PublicError = { code: 'out_of_memory', message: 'the task ran out of memory' };

function payloadOf(task: Task, payload: unknown): Record<string, unknown> {
  const { data, error } = task.payload.safeParse(payload);
  if (data !== undefined) return data;
  const issues = error?.issues.map((issue) => [...issue.path, issue.message].join(': '));
  throw new AppError('task_failed', `its payload does not fit the task: ${issues?.join('; ')}`, { retryable: true });
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

/** A task's own words are its clients' to read; those of the system name our paths. */
function taskFailed(error: unknown): PublicError {
  const { syscall, code } = (error ?? {}) as NodeJS.ErrnoException;
  if (syscall !== undefined) return { code: 'task_failed', message: `the system refused ${syscall}: ${code}` };
  const message = textOf(error instanceof Error ? error.message : error);
  return { code: 'task_failed', message: message || 'the task failed without a message' };
}

/** A result is kept as JSON. */
function checkedResult(result: unknown): Record<string, unknown> {
  let json: string;
  try {
    // A function has no JSON at all.
    json = JSON.stringify(result ?? {}) ?? 'null';
  } catch (cause) {
    throw new AppError('task_failed', `its result cannot be kept as JSON: ${(cause as Error).message}`);
  }
  if (json.length > MAX_RESULT_LENGTH) {
    throw new AppError(
      'task_failed',
      `its result has ${json.length} characters of JSON, more than ${MAX_RESULT_LENGTH}`,
    );
  }
  const value = JSON.parse(json);
  if (!isStorable(value))
    throw new AppError('task_failed', 'its result holds a NUL or half a surrogate pair, or is nested too deep');
  return isRecord(value) ? value : { output: value };
}
