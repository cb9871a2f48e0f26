import { randomUUID } from 'node:crypto';
import { constants, existsSync, mkdirSync, mkdtempSync } from 'node:fs';
import { chmod, copyFile, type FileHandle, open, opendir, rename, unlink } from 'node:fs/promises';
import path from 'node:path';
import { errorCode } from '../../runtime/errors.ts';
import { RejectedOutput } from './rejected-output.ts';
import { removeTree } from './remove-tree.ts';

const { COPYFILE_EXCL, COPYFILE_FICLONE, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const FOLDERS = ['in', 'out'] as const;
type FolderName = (typeof FOLDERS)[number];

/** A process that leaves more files than this is not used again. */
const MAX_FILES = 10_000;
/** The process may run as another user. */
const READABLE = 0o644;
/** Errors of `open` that the process can cause; EAGAIN is a lease on the file. */
const CAUSED_BY_OWNER = ['ELOOP', 'ENOENT', 'EACCES', 'EPERM', 'ENXIO', 'ENODEV', 'EAGAIN', 'ETXTBSY'];

/** A descriptor stays with its folder, even if a hostile process moves or replaces that. */
const hasDescriptors = existsSync('/proc/self/fd');

export interface OpenFile {
  bytes: number;
  content: AsyncIterable<Buffer>;
}

/**
 * The folder of one untrusted process: `in` has private copies of its inputs, `out` its output. The process may change it
 * at any time, so this class follows no path below it.
 */
export class PrivateFolder {
  readonly path: string;
  readonly #work: string;
  readonly #parts = new Map<FolderName, FileHandle>();
  #isFresh = true;

  constructor(work: string) {
    this.#work = work;
    this.path = mkdtempSync(path.join(work, 'run-'));
    for (const part of FOLDERS) mkdirSync(path.join(this.path, part), { mode: 0o700 });
  }

  /** The folder to which the process writes its output, as plain files. */
  get output(): string {
    return path.join(this.path, 'out');
  }

  /** Empties the folder for the next run. Returns false, and the folder must be removed, if it has more than plain files. */
  async begin(): Promise<boolean> {
    await this.#close();
    const root = await openFolder(this.path);
    try {
      if (!this.#isFresh && !(await hasOnlyParts(within(root, this.path)))) return false;
      for (const part of FOLDERS) {
        const handle = await openFolder(within(root, this.path, part));
        this.#parts.set(part, handle);
        if (!this.#isFresh && !(await emptyFolder(this.#at(part)))) return false;
      }
    } catch (error) {
      if (!isCausedByOwner(error, [...CAUSED_BY_OWNER, 'ENOTDIR'])) throw error;
      return false;
    } finally {
      await root.close();
    }
    this.#isFresh = false;
    return true;
  }

  /** Copies a local file into the folder and returns the path of the copy. */
  async copyIn(file: string): Promise<string> {
    const name = `${randomUUID()}${path.extname(file)}`;
    const copy = path.join(this.#work, name);
    await copyFile(file, copy, COPYFILE_EXCL | COPYFILE_FICLONE);
    await chmod(copy, READABLE);
    // The rename replaces a link that the process may have put at this name, and does not follow it.
    await rename(copy, this.#at('in', name));
    return path.join(this.path, 'in', name);
  }

  /** Opens an output file and calls `use` with it. Rejects with RejectedOutput unless it is a plain file of at most `maxBytes`. */
  async read<T>(name: string, maxBytes: number, use: (file: OpenFile) => Promise<T>): Promise<T> {
    const handle = await open(this.#at('out', name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch((error) => {
      if (isCausedByOwner(error, CAUSED_BY_OWNER)) throw new RejectedOutput(`a file cannot be opened: ${error.code}`);
      throw error;
    });
    try {
      const stat = await handle.stat();
      if (!stat.isFile()) throw new RejectedOutput('a file is not a regular file');
      if (stat.nlink !== 1) throw new RejectedOutput(`a file has ${stat.nlink} hard links`);
      if (stat.size < 1 || stat.size > maxBytes)
        throw new RejectedOutput(`a file must have 1 to ${maxBytes} bytes (got ${stat.size})`);
      return await use({ bytes: stat.size, content: contentOf(handle, stat.size) });
    } finally {
      await handle.close();
    }
  }

  /** Removes an output file that is stored. */
  async drop(name: string): Promise<void> {
    // The process may have removed it, and the next run empties the folder.
    await unlink(this.#at('out', name)).catch(() => undefined);
  }

  /** Removes the folder, after the process is gone. */
  async remove(): Promise<void> {
    await this.#close();
    await removeTree(this.path);
  }

  #at(part: FolderName, name = ''): string {
    const handle = this.#parts.get(part);
    if (handle === undefined) throw new Error('the folder is not open');
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

async function hasOnlyParts(folder: string): Promise<boolean> {
  for await (const { name } of await opendir(`${folder}/`)) if (!FOLDERS.some((part) => part === name)) return false;
  return true;
}

/** Returns false for a folder with folders or too many files. */
async function emptyFolder(folder: string): Promise<boolean> {
  let count = 0;
  for await (const entry of await opendir(`${folder}/`)) {
    if (entry.isDirectory() || ++count > MAX_FILES) return false;
    await unlink(path.join(folder, entry.name));
  }
  return true;
}

const CHUNK_BYTES = 64 * 1024;

/** Reads the first `bytes` of a file that may change meanwhile. */
async function* contentOf(file: FileHandle, bytes: number): AsyncGenerator<Buffer, void> {
  for (let at = 0; at < bytes; ) {
    const length = Math.min(CHUNK_BYTES, bytes - at);
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, at);
    if (bytesRead === 0) throw new RejectedOutput('a file became shorter while it was read');
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

function isCausedByOwner(error: unknown, codes: string[]): boolean {
  return codes.includes(errorCode(error) ?? '');
}
