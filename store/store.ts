import type { Readable } from 'node:stream';
import { AppError } from '../runtime/errors.ts';

/** A received file: complete and synced at its path, though no row tells of it yet. */
export interface Received {
  path: string;
  bytes: number;
  sha256: string;
  /** Removes it, with the folders that were made for it. */
  discard(): Promise<void>;
}

/** What began to be received and was not ended, so that nobody will ever ask for it. */
interface Unfinished {
  name: string;
  began: Date;
  remove(): Promise<void>;
}

/** A local file to read, and never to write, until `giveBack`, which never rejects and is called once. */
export interface LocalCopy {
  file: string;
  giveBack(): Promise<void>;
}

/** Where originals and pages live: `disk.ts` or `s3.ts`. Paths are relative to its root (see paths.ts). */
export interface Store {
  /**
   * Streams a file in without holding it in memory. `place` gives its path, by its first 1024 bytes or all of a smaller
   * one; what it throws ends the file. Leaves nothing behind when it or the source fails.
   */
  receive(source: AsyncIterable<Buffer>, place: (head: Buffer) => string): Promise<Received>;
  unfinished(): AsyncIterable<Unfinished>;
  /** A local file with the bytes at a path. A store that is no disk puts it into `folder`. */
  local(path: string, folder: string): Promise<LocalCopy>;
  /** The bytes at a path, or those from `start` to `end`, both included. Rejects before it gives any; with `gone()` if there is no such file. */
  read(path: string, range?: { start: number; end: number }): Promise<Readable>;
  /** Where a client may fetch the bytes by itself for a while, with these headers; undefined if they go through us. */
  link?(path: string, headers: { type: string; disposition: string }): Promise<string>;
  /**
   * Every file below a folder, those of one folder one after another; one that holds nothing counts as a file. What is
   * added or removed meanwhile may be among them or not.
   */
  files(folder: string): AsyncIterable<string>;
  /** When a file was last written; undefined if it is not there. */
  modifiedAt(path: string): Promise<Date | undefined>;
  /** Removes a file; fine if it is not there. */
  removeFile(path: string): Promise<void>;
  /** Removes a folder with all that is in it; fine if it is not there. */
  removeFolder(path: string): Promise<void>;
  /** Room that is left, in MB. */
  freeMb(): Promise<number>;
  /** Throws unless the store can be written to. */
  check(): Promise<void>;
}

/** What a store rejects with where a file is not there, such as one that was deleted just now. */
export function gone(): AppError {
  return new AppError('not_found', 'the file is not there any more', { status: 404 });
}

/** Whether a call failed because the store could not be reached: the same call may work later. */
export function isAway(error: unknown): boolean {
  return error instanceof AppError && error.code === 'unavailable';
}
