import type { z } from 'zod';
import type { PayloadSchema, TaskContext, TaskDefinition } from '../jobs/task.ts';

export interface UploadFiles {
  originals: { original: number; path: string; mediaType: string; sha256: string }[];
  pages: { original: number; page: number; path: string; sha256: string }[];
}

/** The context of a task that may read an upload and write a file. */
export interface UploadTaskContext<Payload> extends TaskContext<Payload> {
  /** The originals and the completed pages of the upload that `reads` returns, in order, with local paths. */
  files: UploadFiles;
  /** The local path at which a task with a `filePath` writes its file. */
  output: string;
}

/** A job type that may read the files of an upload. */
export interface UploadTaskDefinition<Schema extends PayloadSchema = PayloadSchema> extends TaskDefinition<Schema> {
  /** Returns the id of the upload whose files the task reads. */
  reads?(payload: z.output<Schema>): string;
  /** Limits the files that the task gets, which some stores fetch one by one. Unset means all. */
  readsOnly?: keyof UploadFiles;
  /**
   * Returns the path in the store for the file that the task writes to `output`; `key` is random. The file is stored when
   * the task completes, and the result gets its `path`, `bytes` and `sha256`. Requires `reads`, because the path lies in
   * the folder of that upload.
   */
  filePath?(uploadId: string, key: string): string;
}

/** A task that may read the files of an upload. */
export interface UploadTask<Schema extends PayloadSchema = PayloadSchema> extends UploadTaskDefinition<Schema> {
  run(context: UploadTaskContext<z.output<Schema>>): Promise<Record<string, unknown>>;
}

/** Infers the type of the payload for `reads` and `run`. */
export function defineUploadTask<Schema extends PayloadSchema>(task: UploadTask<Schema>): UploadTask<Schema> {
  return task;
}
