import type { z } from 'zod';
import type { Inspection, PageReport } from '../conversion/record-pages.ts';
import type { JobStatus, LogLevel, PageRange } from '../db/schema.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Concurrency, Rate } from './limits.ts';
import type { Shape } from './shape.ts';

/** What a running task is given. */
export interface TaskContext<Payload> {
  payload: Payload;
  /** Counts from 1. */
  attempt: number;
  /**
   * Aborted when the job is cancelled, runs out of time, or is handed back by a converter that stops. A task in a
   * sandbox that does not end within half a second of that is killed.
   */
  signal: AbortSignal;
  /** Keeps a line with the job, for `GET /jobs/{id}/logs`. Long ones are cut, and after a thousand they are dropped. */
  log(level: LogLevel, message: string, data?: Record<string, unknown>): void;
  /** Tells how far the task has come, in units of its choice. What comes in quick succession is told once. */
  progress(done: number, total?: number): void;
  /** The outcomes of the jobs that this one depends on, by ascending id. */
  dependencies: Dependency[];
  /**
   * Ends the attempt, by throwing, because the task has nothing to do yet: the job is scheduled again in so many seconds
   * (1 to 31536000, a year). That spends no attempt.
   */
  snooze(seconds: number): never;
  /** The files of the upload that `reads` names, in order, as local paths: originals, and pages that are complete. */
  files: UploadFiles;
  /** The local path at which to write the one file of a task that has a `filePath`. */
  output: string;
}

/** A prerequisite as it was when the attempt began. */
interface Dependency {
  id: string;
  /** Null when the job was deleted. */
  type: string | null;
  status: JobStatus | 'deleted';
  result: Record<string, unknown> | null;
  error: PublicError | null;
  /** The result was left out: those of all dependencies together have more than 256 KB of JSON. */
  truncated: boolean;
}

export interface UploadFiles {
  originals: { original: number; path: string; mediaType: string; sha256: string }[];
  pages: { original: number; page: number; path: string; sha256: string }[];
}

/** Renderers of PDF pages, and what decodes images. */
export const PDF_ENGINES = ['pdfium', 'pdf-to-img'] as const;
export type PdfEngine = (typeof PDF_ENGINES)[number];
export const ENGINES = [...PDF_ENGINES, 'sharp'] as const;
export type Engine = (typeof ENGINES)[number];

/** What a conversion is about to do with an engine that may never come back: draw a page, or open the file (`page` null). */
export interface Step {
  page: number | null;
  engine: Engine;
  /** No other engine could do it instead. */
  last: boolean;
}

/** What conversions are given besides. */
export interface ConversionContext<Payload> extends TaskContext<Payload> {
  /** The local file of the original that the job works on. */
  input: string;
  password: string | null;
  /** Pages that were settled already, in an earlier attempt or before the sandbox died. */
  settledPages: readonly number[];
  /** What this attempt did not survive: these steps are not taken again with the same engine. */
  avoid: (Step & { error: PublicError })[];
  /** What is reserved for it. */
  reservation: Shape;
  /** `firstEngine` draws PDF pages, the other one is asked where it fails; no step may take longer than `stepSeconds`. */
  limits: { maxPages: number; maxPixels: number; stepSeconds: number; firstEngine: PdfEngine };
  /** To be told before each step, so that what kills the sandbox has a name. */
  step(step: Step): void;
  inspected(found: Inspection): void;
  /** The local path at which to write the PNG of a page before it is reported. */
  pageOutput(page: number): string;
  page(report: PageReport): void;
  /** The job is not done when `run` returns: it waits for a child for each part, and ends with the last of them. */
  split(parts: Part[]): void;
}

/** Pages of the original that a separate child converts, and the memory class that it reserves. */
export interface Part {
  pages: PageRange[];
  memoryMb: number;
}

/** A job type: what both sides need to know of it. Heavy imports belong into `run`, which is called only where it runs. */
export interface Task<Schema extends z.ZodType<Record<string, unknown>> = z.ZodType<Record<string, unknown>>> {
  type: string;
  payload: Schema;
  /** What its jobs reserve unless they say otherwise. Only a trusted task may reserve no CPU at all. */
  resources: Shape;
  /** Runs in the converter itself and not in a sandbox: for short work of our own that waits more than it computes. */
  trusted?: boolean;
  /** How many of its jobs run at a time, in all converters together. */
  concurrency?: Concurrency;
  /** How many of its jobs start, in all converters together. */
  rate?: Rate;
  /** Made by uploads alone; clients cannot submit it. */
  internal?: boolean;
  /** The id of the upload whose files it reads. */
  reads?(payload: z.output<Schema>): string;
  /** Which of these files it is given; unset, all. From some stores each is fetched. */
  readsOnly?: keyof UploadFiles;
  /**
   * The path in the store for the file that the task writes to `output`; `key` is random. The file is stored when the
   * task completes, and its result gets the `path`, `bytes` and `sha256` of it. Only for a task that `reads` an upload:
   * the path lies in the folder of that.
   */
  filePath?(uploadId: string, key: string): string;
  /**
   * Gives what is kept as the job's result, as JSON. An AppError that is not retryable ends the job at once; what else it
   * throws fails the attempt, as `task_failed` with the error's message. An AppError with `retryAfterSeconds` is retryable,
   * and overrides the backoff of that retry.
   */
  run(context: TaskContext<z.output<Schema>>): Promise<Record<string, unknown>>;
}

/** Keeps the type of the payload for `run`. */
export function defineTask<Schema extends z.ZodType<Record<string, unknown>>>(task: Task<Schema>): Task<Schema> {
  return task;
}
