import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';

/**
 * Local copies of stored files, one of each however many use it at a time: the ranges of a PDF read the same original.
 * `fetch` writes the file at a store path to a local one.
 */
export function createCopies(folder: string, fetch: (storePath: string, file: string) => Promise<void>) {
  const copies = new Map<string, { file: Promise<string>; users: number }>();

  async function make(storePath: string): Promise<string> {
    await mkdir(folder, { recursive: true });
    const file = path.join(folder, randomUUID());
    await fetch(storePath, file).catch(async (error) => {
      await rm(file, { force: true });
      throw error;
    });
    return file;
  }

  return {
    /** A file to read until `giveBack`, which is to be called once for each call of this, even one that rejected. */
    async take(storePath: string): Promise<string> {
      const copy = copies.get(storePath) ?? { file: make(storePath), users: 0 };
      copies.set(storePath, copy);
      copy.users++;
      return copy.file;
    },
    /** Never rejects. */
    async giveBack(storePath: string): Promise<void> {
      const copy = copies.get(storePath);
      if (copy === undefined || --copy.users > 0) return;
      copies.delete(storePath);
      await copy.file.then((file) => rm(file, { force: true })).catch(() => undefined);
    },
  };
}
