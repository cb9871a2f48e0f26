import { lstat, opendir, readdir, readlink, stat, statfs } from 'node:fs/promises';
import path from 'node:path';

/** The disk or memory that the files of a sandbox take: limits of the kernel hold for one file each. */

/** As many entries make a folder too large, whatever their size: a look must not take long. */
const MAX_ENTRIES = 10_000;
const BLOCK_BYTES = 512;
const MB = 2 ** 20;
const TMPFS_MAGIC = 0x01021994;

/** All files of a sandbox together. */
export const MAX_FILES_MB = 8192;
const LOOK_MS = 500;

export interface FileWatch {
  /** The part of them that is memory. */
  memoryMb(): number;
  stop(): void;
}

/** Follows the size of what a sandbox has written; calls `onOver` once it is above `MAX_FILES_MB`. */
export async function watchFiles(
  { folder, pid, others }: { folder: string; pid: number; others: () => number[] },
  onOver: () => void,
): Promise<FileWatch> {
  const inMemory = await isInMemory(folder);
  let latestMb = 0;
  let looking = false;
  const look = async () => {
    if (looking) return;
    looking = true;
    latestMb = await filesMb(folder, [pid, ...others()]);
    looking = false;
    if (latestMb > MAX_FILES_MB) onOver();
  };
  const timer = setInterval(look, LOOK_MS);
  return { memoryMb: () => (inMemory ? latestMb : 0), stop: () => clearInterval(timer) };
}

/** In MB, with deleted files that `pids` still have open. Infinity for more entries than are worth counting. */
async function filesMb(folder: string, pids: number[]): Promise<number> {
  let blocks = 0;
  let entries = 0;
  const folders = [folder];
  for (let next = folders.pop(); next !== undefined; next = folders.pop()) {
    // The sandbox may have removed it meanwhile.
    const found = await opendir(next).catch(() => []);
    for await (const entry of found) {
      if (++entries > MAX_ENTRIES) return Infinity;
      const place = path.join(next, entry.name);
      if (entry.isDirectory()) folders.push(place);
      else blocks += (await lstat(place).catch(() => undefined))?.blocks ?? 0;
    }
  }
  for (const pid of pids) blocks += await deletedBlocks(pid);
  return (blocks * BLOCK_BYTES) / MB;
}

/** True if files there are memory. */
async function isInMemory(folder: string): Promise<boolean> {
  return statfs(folder).then(
    ({ type }) => type === TMPFS_MAGIC,
    () => false,
  );
}

async function deletedBlocks(pid: number): Promise<number> {
  const folder = `/proc/${pid}/fd`;
  const descriptors = await readdir(folder).catch(() => []);
  const sizes = descriptors.map(async (descriptor) => {
    const place = path.join(folder, descriptor);
    if (!(await readlink(place)).endsWith(' (deleted)')) return 0;
    const stats = await stat(place);
    return stats.isFile() ? stats.blocks : 0;
  });
  return (await Promise.allSettled(sizes)).reduce(
    (sum, size) => sum + (size.status === 'fulfilled' ? size.value : 0),
    0,
  );
}
