import { randomUUID } from 'node:crypto';
import { constants, existsSync, mkdirSync, mkdtempSync } from 'node:fs';
import { chmod, copyFile, type FileHandle, open, opendir, rename, unlink } from 'node:fs/promises';
import path from 'node:path';
import { RejectedOutput } from './rejected-output.ts';
import { removeTree } from './remove-tree.ts';

const { COPYFILE_EXCL, COPYFILE_FICLONE, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const FOLDERS = ['in', 'out'] as const;
type Part = (typeof FOLDERS)[number];

/** A process that leaves more files is not used again. */
const MAX_FILES = 10_000;
/** The process that owns the folder may have another user id. */
const READABLE = 0o644;
/** Errors of `open` that the owner of the file has caused; EAGAIN is a lease on it. */
const OWNERS_FAULT = ['ELOOP', 'ENOENT', 'EACCES', 'EPERM', 'ENXIO', 'ENODEV', 'EAGAIN', 'ETXTBSY'];

/** Where the system has it, a descriptor keeps to its folder even if a hostile process moves or replaces that. */
const hasDescriptors = existsSync('/proc/self/fd');

export interface OpenFile {
  bytes: number;
  content: AsyncIterable<Buffer>;
}

/**
 * The folder of one process that is not trusted: `in` takes private copies of what it reads, `out` what it makes. The
 * process may write anything into it at any time, so no path below it is followed here.
 */
export class PrivateFolder {
  readonly path: string;
  readonly #work: string;
  readonly #parts = new Map<Part, FileHandle>();
  #isFresh = true;

  /** A new folder in the work folder at `work`. */
  constructor(work: string) {
    this.#work = work;
    this.path = mkdtempSync(path.join(work, 'run-'));
    for (const part of FOLDERS) mkdirSync(path.join(this.path, part), { mode: 0o700 });
  }

  /** Where the process writes its results, as files without folders. */
  get output(): string {
    return path.join(this.path, 'out');
  }

  /** Empties the folder for the next run. False if it holds more than the plain files of a run: remove it then. */
  async begin(): Promise<boolean> {
    await this.#close();
    const root = await openFolder(this.path);
    try {
      if (!this.#isFresh && !(await holdsParts(within(root, this.path)))) return false;
      for (const part of FOLDERS) {
        const handle = await openFolder(within(root, this.path, part));
        this.#parts.set(part, handle);
        if (!this.#isFresh && !(await isEmptied(this.#at(part)))) return false;
      }
    } catch (error) {
      if (!isOwnersFault(error, [...OWNERS_FAULT, 'ENOTDIR'])) throw error;
      return false;
    } finally {
      await root.close();
    }
    this.#isFresh = false;
    return true;
  }

  /** Gives the path of a new private copy of a local file. */
  async copyIn(file: string): Promise<string> {
    const name = `${randomUUID()}${path.extname(file)}`;
    const copy = path.join(this.#work, name);
    await copyFile(file, copy, COPYFILE_EXCL | COPYFILE_FICLONE);
    await chmod(copy, READABLE);
    // Moved once it is complete: what the process puts at the same name is replaced, not followed.
    await rename(copy, this.#at('in', name));
    return path.join(this.path, 'in', name);
  }

  /** Opens a file that the process has made, and calls `use` with it. Rejects with RejectedOutput for anything but a plain file of `maxBytes` at most. */
  async read<T>(name: string, maxBytes: number, use: (file: OpenFile) => Promise<T>): Promise<T> {
    const handle = await open(this.#at('out', name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch((error) => {
      if (isOwnersFault(error, OWNERS_FAULT)) throw new RejectedOutput(`a result cannot be opened: ${error.code}`);
      throw error;
    });
    try {
      const stat = await handle.stat();
      if (!stat.isFile()) throw new RejectedOutput('a result is no regular file');
      if (stat.nlink !== 1) throw new RejectedOutput(`a result has ${stat.nlink} names`);
      if (stat.size < 1 || stat.size > maxBytes)
        throw new RejectedOutput(`a result has ${stat.size} bytes, and 1 to ${maxBytes} are allowed`);
      return await use({ bytes: stat.size, content: contentOf(handle, stat.size) });
    } finally {
      await handle.close();
    }
  }

  /** Removes a result that is stored. */
  async drop(name: string): Promise<void> {
    await unlink(this.#at('out', name)).catch(() => undefined);
  }

  /** To be called when the process is gone. */
  async remove(): Promise<void> {
    await this.#close();
    await removeTree(this.path);
  }

  #at(part: Part, name = ''): string {
    const handle = this.#parts.get(part);
    if (handle === undefined) throw new Error('the folder is not in use');
    return within(handle, path.join(this.path, part), name);
  }

  async #close(): Promise<void> {
    const handles = [...this.#parts.values()];
    this.#parts.clear();
    await Promise.all(handles.map((handle) => handle.close()));
  }
}

function openFolder(folder: string): Promise<FileHandle> {
  return open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

function within(folder: FileHandle, folderPath: string, name = ''): string {
  return path.join(hasDescriptors ? `/proc/self/fd/${folder.fd}` : folderPath, name);
}

async function holdsParts(folder: string): Promise<boolean> {
  for await (const { name } of await opendir(`${folder}/`)) if (!FOLDERS.some((part) => part === name)) return false;
  return true;
}

/** False for a folder that holds others, or too much. */
async function isEmptied(folder: string): Promise<boolean> {
  let count = 0;
  for await (const entry of await opendir(`${folder}/`)) {
    if (entry.isDirectory() || ++count > MAX_FILES) return false;
    await unlink(path.join(folder, entry.name));
  }
  return true;
}

const CHUNK_BYTES = 64 * 1024;

/** The first `bytes` of a file that may change meanwhile. */
async function* contentOf(file: FileHandle, bytes: number): AsyncGenerator<Buffer, void> {
  for (let at = 0; at < bytes; ) {
    const length = Math.min(CHUNK_BYTES, bytes - at);
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, at);
    if (bytesRead === 0) throw new RejectedOutput('a result became shorter while it was read');
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

function isOwnersFault(error: unknown, codes: string[]): boolean {
  return codes.includes(String((error as NodeJS.ErrnoException).code));
}
