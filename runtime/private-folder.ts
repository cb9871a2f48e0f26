import { chmod, mkdir, stat } from 'node:fs/promises';

const OTHERS = 0o007;

/**
 * Makes a folder that other users of the machine cannot enter. A folder that is there keeps its rights for a group, by which
 * several users may share it, and every right if it belongs to somebody else.
 */
export async function makePrivateFolder(folder: string): Promise<void> {
  const isNew = (await mkdir(folder, { recursive: true })) !== undefined;
  const { mode, uid } = await stat(folder);
  const me = process.getuid?.();
  if (me !== 0 && me !== uid) return;
  if (isNew) await chmod(folder, 0o700);
  else if ((mode & OTHERS) !== 0) await chmod(folder, mode & 0o7777 & ~OTHERS);
}
