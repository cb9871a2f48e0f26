import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { access, type FileHandle, mkdir, open, opendir, rename, rm, rmdir, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import { makePrivateFolder } from '../runtime/private-folder.ts';
import { measure } from './measure.ts';
import { gone, type Store } from './store.ts';

/** Files that are still being received; what came in whole leaves it at once. */
const INCOMING = 'incoming';

/** A store in a folder of a local or shared disk. Files appear at their path complete and synced, or not at all. */
export async function openDiskStore(root: string): Promise<Store> {
  const incoming = path.join(root, INCOMING);
  await makePrivateFolder(root);
  await mkdir(incoming, { recursive: true });
  const absolute = (relative: string) => path.join(root, relative);

  async function* files(folder: string): AsyncGenerator<string, void> {
    const entries = await opendir(absolute(folder), { bufferSize: 1024 }).catch(unlessMissing);
    for await (const entry of entries ?? []) {
      const child = `${folder}/${entry.name}`;
      let empty = true;
      if (entry.isDirectory()) {
        for await (const file of files(child)) {
          empty = false;
          yield file;
        }
      }
      if (empty) yield child;
    }
  }

  async function modifiedAt(relative: string): Promise<Date | undefined> {
    return (await stat(absolute(relative)).catch(unlessMissing))?.mtime;
  }

  async function removeFile(relative: string): Promise<void> {
    await rm(absolute(relative), { force: true });
  }

  /** From `folder` up to the root. */
  function foldersFrom(folder: string): string[] {
    return folder === root ? [root] : [folder, ...foldersFrom(path.dirname(folder))];
  }

  /** Others may be about to write into the topmost folders: those stay. */
  async function removeEmpty(folder: string): Promise<void> {
    for (const empty of foldersFrom(folder).slice(0, -2)) await rmdir(empty);
  }

  /** Makes a folder, with those above it, that survives a power cut. */
  async function makeFolder(folder: string): Promise<void> {
    const firstMade = await mkdir(folder, { recursive: true });
    if (firstMade === undefined) return;
    const above = foldersFrom(path.dirname(folder));
    await Promise.all(above.slice(0, above.indexOf(path.dirname(firstMade)) + 1).map(syncFolder));
  }

  return {
    async receive(source, place) {
      const { head, whole, drop, measured } = await measure(source);
      const temporary = path.join(incoming, randomUUID());
      try {
        const relative = place(head);
        const folder = path.dirname(absolute(relative));
        const handle = await open(temporary, 'wx');
        try {
          await writeAll(handle, whole);
          await Promise.all([handle.sync(), makeFolder(folder)]);
        } finally {
          await handle.close();
        }
        await rename(temporary, absolute(relative));
        await syncFolder(folder);
        return {
          path: relative,
          ...measured(),
          async discard() {
            await removeFile(relative);
            await removeEmpty(folder).catch(() => undefined);
          },
        };
      } catch (error) {
        await drop();
        await rm(temporary, { force: true });
        throw error;
      }
    },
    async *unfinished() {
      for await (const name of files(INCOMING)) {
        const began = await modifiedAt(name);
        if (began) yield { name, began, remove: () => removeFile(name) };
      }
    },
    async local(relative) {
      return { file: absolute(relative), giveBack: async () => undefined };
    },
    async read(relative, range) {
      const handle = await open(absolute(relative)).catch(unlessMissing);
      if (handle === undefined) throw gone();
      return handle.createReadStream(range);
    },
    files,
    modifiedAt,
    removeFile,
    async removeFolder(relative) {
      // Again when something is written into it just now.
      await rm(absolute(relative), { recursive: true, force: true, maxRetries: 3 });
    },
    async freeMb() {
      const { bavail, bsize } = await statfs(incoming);
      return (bavail * bsize) / 2 ** 20;
    },
    async check() {
      await access(incoming, constants.W_OK);
    },
  };
}

async function writeAll(file: FileHandle, content: AsyncIterable<Buffer>): Promise<void> {
  for await (const chunk of content) {
    for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
  }
}

function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

/** A new or renamed file survives a power cut only once its folder is synced as well. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
