import type { z } from 'zod';
import type { Inspection, PageOutcome } from '../jobs/conversion.ts';
import type { Shape } from '../jobs/shape.ts';
import type { NewJob } from '../jobs/submit.ts';

/** What a running task is given. Everything in it crosses from the converter into the sandbox. */
export interface TaskContext<Payload> {
  payload: Payload;
  /** Counts from 1; part of the names of the files that the attempt writes. */
  attempt: number;
  /** The local file of the original that the job works on. */
  input: string;
  password: string | null;
  /** Pages that an earlier attempt settled already. */
  settledPages: number[];
  limits: { maxPages: number; maxPixels: number };
  /** Where to write the file that belongs at a path of the store. */
  output(storePath: string): string;
  inspected(found: Inspection): void;
  page(outcome: PageOutcome): void;
}

/** A task is done, or splits its job into children. */
export type TaskReturn =
  | { kind: 'completed'; result: Record<string, unknown> }
  | { kind: 'split'; children: Pick<NewJob, 'type' | 'payload' | 'shape'>[] };

/** A job type: what both sides need to know of it. `run` is imported only where it runs. */
export interface Task<Schema extends z.ZodType<Record<string, unknown>> = z.ZodType<Record<string, unknown>>> {
  type: string;
  payload: Schema;
  /** What its jobs reserve unless they say otherwise. */
  shape: Shape;
  run(context: TaskContext<z.output<Schema>>): Promise<TaskReturn>;
}

/** Keeps the type of the payload for `run`. */
export function defineTask<Schema extends z.ZodType<Record<string, unknown>>>(task: Task<Schema>): Task<Schema> {
  return task;
}
