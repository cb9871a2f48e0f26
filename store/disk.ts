import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, open, opendir, rm, rmdir, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { errorCode } from '../runtime/errors.ts';
import { makePrivateFolder } from '../runtime/private-folder.ts';
import { MeasuredSource } from './measure.ts';
import { fileNotFound, type LocalCopy, type Received, type Store } from './store.ts';
import { foldersUpTo, writeSynced } from './write-synced.ts';

/** The folder of files that are being received. A complete file leaves it at once. */
const INCOMING = 'incoming';

/** Opens a store in a folder of a local or shared disk. Makes the folder if it is new. */
export async function openDiskStore(root: string): Promise<Store> {
  await makePrivateFolder(root);
  await mkdir(path.join(root, INCOMING), { recursive: true });
  return new DiskStore(root);
}

class DiskStore implements Store {
  readonly #root: string;
  readonly #incoming: string;

  constructor(root: string) {
    this.#root = root;
    this.#incoming = path.join(root, INCOMING);
  }

  async receive(source: AsyncIterable<Buffer>, choosePath: (head: Buffer) => string): Promise<Received> {
    const measured = await MeasuredSource.open(source);
    const temporary = path.join(this.#incoming, randomUUID());
    try {
      const relative = choosePath(measured.head);
      await writeSynced(this.#absolute(relative), measured.content(), { temporary, root: this.#root });
      return { path: relative, ...measured.totals(), discard: () => this.#discard(relative) };
    } catch (error) {
      await measured.cancel();
      await rm(temporary, { force: true });
      throw error;
    }
  }

  async *unfinished() {
    for await (const name of this.files(INCOMING)) {
      const began = await this.modifiedAt(name);
      if (began) yield { name, began, remove: () => this.removeFile(name) };
    }
  }

  async local(relative: string): Promise<LocalCopy> {
    return { file: this.#absolute(relative), release: async () => undefined };
  }

  async read(relative: string, range?: { start: number; end: number }): Promise<Readable> {
    const handle = await open(this.#absolute(relative)).catch(undefinedIfMissing);
    if (handle === undefined) throw fileNotFound();
    return handle.createReadStream(range);
  }

  async *files(folder: string): AsyncGenerator<string, void> {
    const entries = await opendir(this.#absolute(folder), { bufferSize: 1024 }).catch(undefinedIfMissing);
    for await (const entry of entries ?? []) {
      const child = `${folder}/${entry.name}`;
      let isEmpty = true;
      if (entry.isDirectory()) {
        for await (const file of this.files(child)) {
          isEmpty = false;
          yield file;
        }
      }
      if (isEmpty) yield child;
    }
  }

  async modifiedAt(relative: string): Promise<Date | undefined> {
    return (await stat(this.#absolute(relative)).catch(undefinedIfMissing))?.mtime;
  }

  async removeFile(relative: string): Promise<void> {
    await rm(this.#absolute(relative), { force: true });
  }

  async removeFolder(relative: string): Promise<void> {
    // A retry removes files that are written into it at the same time.
    await rm(this.#absolute(relative), { recursive: true, force: true, maxRetries: 3 });
  }

  async freeMb(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#incoming);
    return (bavail * bsize) / 2 ** 20;
  }

  async check(): Promise<void> {
    await access(this.#incoming, constants.W_OK);
  }

  #absolute(relative: string): string {
    return path.join(this.#root, relative);
  }

  async #discard(relative: string): Promise<void> {
    await this.removeFile(relative);
    // The two topmost folders stay, since other files may be about to enter them.
    const folders = foldersUpTo(this.#root, path.dirname(this.#absolute(relative))).slice(0, -2);
    for (const folder of folders) {
      try {
        await rmdir(folder);
      } catch {
        // It holds other files, and so do those above it.
        return;
      }
    }
  }
}

function undefinedIfMissing(error: unknown): undefined {
  if (errorCode(error) !== 'ENOENT') throw error;
}
