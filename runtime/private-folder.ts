import { chmod, mkdir, stat } from 'node:fs/promises';

const OTHERS = 0o007;

/**
 * Makes a folder that other users of the machine cannot enter. An existing folder keeps the rights of its group, so that
 * several users may share it, and all rights if it belongs to another user.
 */
export async function makePrivateFolder(folder: string): Promise<void> {
  const isNew = (await mkdir(folder, { recursive: true })) !== undefined;
  const { mode, uid } = await stat(folder);
  const ownUid = process.getuid?.();
  if (ownUid !== 0 && ownUid !== uid) return;
  if (isNew) await chmod(folder, 0o700);
  else if ((mode & OTHERS) !== 0) await chmod(folder, mode & 0o7777 & ~OTHERS);
}
