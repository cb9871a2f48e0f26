import type { z } from 'zod';
import type { JobStatus, LogLevel } from '../db/schema.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Concurrency, Rate } from './limits.ts';
import type { Shape } from './shape.ts';

/** The input of a running task, and its connection to the job. */
export interface TaskContext<Payload> {
  payload: Payload;
  /** Counts from 1. */
  attempt: number;
  /**
   * Aborted when the job is cancelled or times out, or when its converter stops. A task in a sandbox is killed half a
   * second later.
   */
  signal: AbortSignal;
  /** Adds a line to `GET /jobs/{id}/logs`. Long lines are cut, and lines after the first thousand are dropped. */
  log(level: LogLevel, message: string, data?: Record<string, unknown>): void;
  /** Reports progress in any unit. Only the last of reports in quick succession is stored. */
  progress(done: number, total?: number): void;
  /** The outcomes of the jobs that this job depends on, by ascending id. */
  dependencies: Dependency[];
  /**
   * Ends the attempt, by throwing, because the task has nothing to do yet: the job is scheduled again in so many seconds
   * (1 to 31536000, a year). Does not count as a failure.
   */
  snooze(seconds: number): never;
}

/** A prerequisite at the time when the attempt began. */
interface Dependency {
  id: string;
  /** Null when the job was deleted. */
  type: string | null;
  status: JobStatus | 'deleted';
  result: Record<string, unknown> | null;
  error: PublicError | null;
  /** The result was left out, because the results of all dependencies exceed 256 KB of JSON. */
  truncated: boolean;
}

export type PayloadSchema = z.ZodType<Record<string, unknown>>;

/** A job type, which the API and the converters share. */
export interface TaskDefinition<Schema extends PayloadSchema = PayloadSchema> {
  type: string;
  payload: Schema;
  /** The default reservation of a job. Only a trusted task may reserve no CPU. */
  resources: Shape;
  /** Runs in the converter and not in a sandbox: for short work of operators that waits more than it computes. */
  trusted?: boolean;
  /** The maximum number of jobs that run at the same time in all converters. */
  concurrency?: Concurrency;
  /** The maximum number of jobs that start per time in all converters. */
  rate?: Rate;
  /** Clients cannot submit it. */
  internal?: boolean;
}

/** A job type with the code that runs it. `run` imports heavy modules dynamically. */
export interface Task<Schema extends PayloadSchema = PayloadSchema> extends TaskDefinition<Schema> {
  /**
   * Returns the result of the job as JSON. An AppError that is not retryable fails the job at once. Any other error fails
   * the attempt with `task_failed` and the error's message. An AppError with `retryAfterSeconds` is retryable, and replaces
   * the backoff before that retry.
   */
  run(context: TaskContext<z.output<Schema>>): Promise<Record<string, unknown>>;
}

/** Infers the type of the payload for `run`. */
export function defineTask<Schema extends PayloadSchema>(task: Task<Schema>): Task<Schema> {
  return task;
}
