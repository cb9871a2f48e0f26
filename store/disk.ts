import { createHash, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, open, opendir, rename, rm, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import { INCOMING } from './paths.ts';
import type { Store } from './store.ts';

const HEAD_BYTES = 1024;

/** A store in a folder of a local or shared disk. Files appear at their path complete and synced, or not at all. */
export async function openDiskStore(root: string): Promise<Store> {
  const incoming = path.join(root, INCOMING);
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

  return {
    async receive(source) {
      const temporary = path.join(incoming, randomUUID());
      const discard = () => rm(temporary, { force: true });
      const hash = createHash('sha256');
      let bytes = 0;
      let head = Buffer.alloc(0) as Buffer;
      const file = await open(temporary, 'wx');
      try {
        for await (const chunk of source) {
          if (head.length < HEAD_BYTES) head = Buffer.concat([head, chunk.subarray(0, HEAD_BYTES - head.length)]);
          hash.update(chunk);
          bytes += chunk.length;
          for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
        }
        await file.sync();
      } catch (error) {
        await file.close();
        await discard();
        throw error;
      }
      await file.close();
      return {
        bytes,
        sha256: hash.digest('hex'),
        head,
        discard,
        async keep(relative: string) {
          const folder = path.dirname(absolute(relative));
          await mkdir(folder, { recursive: true });
          await rename(temporary, absolute(relative));
          for (let at = folder; at !== path.dirname(root); at = path.dirname(at)) await syncFolder(at);
        },
      };
    },
    localFile: absolute,
    files,
    async modifiedAt(relative) {
      return (await stat(absolute(relative)).catch(unlessMissing))?.mtime;
    },
    async removeFile(relative) {
      await rm(absolute(relative), { force: true });
    },
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
