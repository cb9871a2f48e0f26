import path from 'node:path';
import type { LogLevel, Progress } from '../db/schema.ts';
import { isStorable, storableText } from '../db/storable.ts';
import { AppError, isOutOfMemory, type PublicError, publicError } from '../errors.ts';
import type { Inspection, PageReport } from '../jobs/conversion.ts';
import type { ConversionContext, Part, Step, Task } from '../tasks/task.ts';
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
  | { kind: 'failed'; error: PublicError; retryable: boolean; retryAfterSeconds?: number | undefined; detail?: string };

const LARGEST_RESULT = 256 * 1024;
const LONGEST_MESSAGE = 2_000;
/** A year: for a snooze, and for the delay of a retry that a task asks for. */
const MAX_DELAY_SECONDS = 365 * 86_400;

/** Runs a task where this is called: in the sandbox, or in the converter for trusted ones. Never rejects. */
export async function runTask(
  task: Task | undefined,
  { type, outputFolder, ...given }: TaskRequest,
  signal: AbortSignal,
  tell: (event: TaskEvent) => void,
): Promise<TaskOutcome> {
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
      log: (level, message, data) => tell({ kind: 'log', level, message: String(message), data }),
      progress: (done, total) => tell({ kind: 'progress', progress: { done, total: total ?? null } }),
      snooze: (seconds) => {
        snoozed = checkedSnooze(seconds);
        throw new Error(`snoozes for ${seconds} s`);
      },
      output: path.join(outputFolder, FILE_NAME),
      pageOutput: (page) => path.join(outputFolder, pageName(page)),
      inspected: (found) => tell({ kind: 'inspected', found }),
      step: (step) => tell({ kind: 'step', step }),
      page: (report) => tell({ kind: 'page', report }),
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
      error: { ...known, message: storableText(known.message.slice(0, LONGEST_MESSAGE)) },
      retryable: error instanceof AppError ? error.retryable : true,
      ...(error instanceof AppError && delayOf(error)),
      detail: `${error instanceof Error ? error.stack : textOf(error)}${cause}`,
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

/** Anything can be thrown, also what has no text. */
function textOf(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return '';
  }
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
  if (json.length > LARGEST_RESULT) {
    throw new AppError('task_failed', `its result has ${json.length} characters of JSON, more than ${LARGEST_RESULT}`);
  }
  const value = JSON.parse(json);
  if (!isStorable(value))
    throw new AppError('task_failed', 'its result holds a NUL or half a surrogate pair, or is nested too deep');
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : { output: value };
}
