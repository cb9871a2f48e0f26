import { rm } from 'node:fs/promises';
import type { LocalCopy } from './store.ts';

/** Fetches the file at a path of the store into a folder. Returns the name of the new file. */
type Fetch = (storePath: string, folder: string) => Promise<string>;

interface SharedCopy {
  file: Promise<string>;
  users: number;
}

/** Local copies of stored files. Concurrent users of a file share one copy: the ranges of a PDF read the same original. */
export class LocalCopies {
  readonly #fetch: Fetch;
  /** The copies in use, by folder and store path. */
  readonly #copies = new Map<string, SharedCopy>();

  constructor(fetch: Fetch) {
    this.#fetch = fetch;
  }

  async take(storePath: string, folder: string): Promise<LocalCopy> {
    const key = `${folder}\0${storePath}`;
    const copy = this.#copies.get(key) ?? { file: this.#fetch(storePath, folder), users: 0 };
    this.#copies.set(key, copy);
    copy.users++;
    const release = () => this.#release(key, copy);
    try {
      return { file: await copy.file, release };
    } catch (error) {
      await release();
      throw error;
    }
  }

  async #release(key: string, copy: SharedCopy): Promise<void> {
    if (--copy.users > 0) return;
    this.#copies.delete(key);
    // A fetch that failed has left no file, and its caller has its error.
    await copy.file.then((file) => rm(file, { force: true })).catch(() => undefined);
  }
}
