import { rm } from 'node:fs/promises';
import type { LocalCopy } from './store.ts';

/**
 * Local copies of stored files, one of each however many use it at a time: the ranges of a PDF read the same original.
 * `make` gives a new file with the bytes at a store path, in a folder.
 */
export function createLocalCopies(make: (storePath: string, folder: string) => Promise<string>) {
  const copies = new Map<string, { file: Promise<string>; users: number }>();

  return async function takeCopy(storePath: string, folder: string): Promise<LocalCopy> {
    const key = `${folder}\0${storePath}`;
    const copy = copies.get(key) ?? { file: make(storePath, folder), users: 0 };
    copies.set(key, copy);
    copy.users++;
    const giveBack = async () => {
      if (--copy.users > 0) return;
      copies.delete(key);
      await copy.file.then((file) => rm(file, { force: true })).catch(() => undefined);
    };
    try {
      return { file: await copy.file, giveBack };
    } catch (error) {
      await giveBack();
      throw error;
    }
  };
}
