import { rm } from 'node:fs/promises';

/** A local file to read until `giveBack`, which never rejects and is called once. */
export interface Copy {
  file: string;
  giveBack(): Promise<void>;
}

/**
 * Local copies of stored files, one of each however many use it at a time: the ranges of a PDF read the same original.
 * `make` gives a new file with the bytes at a store path.
 */
export function createCopies(make: (storePath: string) => Promise<string>) {
  const copies = new Map<string, { file: Promise<string>; users: number }>();

  return async function takeCopy(storePath: string): Promise<Copy> {
    const copy = copies.get(storePath) ?? { file: make(storePath), users: 0 };
    copies.set(storePath, copy);
    copy.users++;
    const giveBack = async () => {
      if (--copy.users > 0) return;
      copies.delete(storePath);
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
