import { mkdir, open, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';

/**
 * Writes a file that appears at its path complete, and that survives a power cut. It is written at `temporary` first. The
 * folders that are missing between `root` and the file are made.
 */
export async function writeSynced(
  file: string,
  content: AsyncIterable<Buffer>,
  { temporary, root }: { temporary: string; root: string },
): Promise<void> {
  const folder = path.dirname(file);
  await writeFile(temporary, content, { flag: 'wx' });
  await Promise.all([sync(temporary), makeSyncedFolder(folder, root)]);
  await rename(temporary, file);
  await sync(folder);
}

/** The folder and those above it, up to `root`. */
export function foldersUpTo(root: string, folder: string): string[] {
  return folder === root ? [root] : [folder, ...foldersUpTo(root, path.dirname(folder))];
}

async function makeSyncedFolder(folder: string, root: string): Promise<void> {
  const firstMade = await mkdir(folder, { recursive: true });
  if (firstMade === undefined) return;
  const above = foldersUpTo(root, path.dirname(folder));
  await Promise.all(above.slice(0, above.indexOf(path.dirname(firstMade)) + 1).map(sync));
}

/** Syncs a file, or the entries of a folder: a new or renamed file survives only once its folder is synced as well. */
async function sync(target: string): Promise<void> {
  const handle = await open(target, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
