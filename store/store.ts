import type { Readable } from 'node:stream';
import { AppError } from '../runtime/errors.ts';

/** A received file: complete and synced at its path. No row refers to it yet. */
export interface Received {
  path: string;
  bytes: number;
  sha256: string;
  /** Removes it, with the folders that were made for it. */
  discard(): Promise<void>;
}

/** A file that was begun and not completed. */
interface Unfinished {
  name: string;
  began: Date;
  remove(): Promise<void>;
}

/** A local file, for reading only. The caller calls `release` once; it never rejects. */
export interface LocalCopy {
  file: string;
  release(): Promise<void>;
}

/** Stores originals and pages: `disk.ts` or `s3.ts`. Paths are relative to its root (see paths.ts). */
export interface Store {
  /**
   * Streams a file in without holding it in memory. `choosePath` returns its path, given its first 1024 bytes or all of a
   * smaller file; it throws to refuse the file. A failure leaves nothing behind.
   */
  receive(source: AsyncIterable<Buffer>, choosePath: (head: Buffer) => string): Promise<Received>;
  /** Files that were begun and not completed, those being received now included. */
  unfinished(): AsyncIterable<Unfinished>;
  /** A local file with the bytes at a path. A store on S3 puts a copy into `folder`. */
  local(path: string, folder: string): Promise<LocalCopy>;
  /** The bytes at a path, or those from `start` to `end`, both included. Rejects with `fileNotFound()` before any byte. */
  read(path: string, range?: { start: number; end: number }): Promise<Readable>;
  /** A URL from which a client may fetch the bytes for some minutes; undefined if the API serves all bytes. */
  link?(path: string, headers: { type: string; disposition: string }): Promise<string>;
  /**
   * Every file below a folder, those of one folder one after another. An empty folder counts as a file. The list may lack
   * files that are added or removed meanwhile.
   */
  files(folder: string): AsyncIterable<string>;
  /** The time when a file was last written; undefined if there is none. */
  modifiedAt(path: string): Promise<Date | undefined>;
  /** Removes a file, if it exists. */
  removeFile(path: string): Promise<void>;
  /** Removes a folder and everything in it, if it exists. */
  removeFolder(path: string): Promise<void>;
  freeMb(): Promise<number>;
  /** Throws unless the store can be written to. */
  check(): Promise<void>;
}

/** The error of a store for a path without a file, for example after a deletion. */
export function fileNotFound(): AppError {
  return new AppError('not_found', 'the file no longer exists', { status: 404 });
}

/** True if a call failed because the store was out of reach: a retry may succeed. */
export function isAway(error: unknown): boolean {
  return error instanceof AppError && error.code === 'unavailable';
}
