import { lstat, opendir, readdir, readlink, stat, statfs } from 'node:fs/promises';
import path from 'node:path';

/** The limit of a sandbox's files together: the kernel limits only single files. */
export const MAX_FILES_MB = 8192;
/** A folder with more entries counts as too large, because measuring it would take too long. */
const MAX_ENTRIES = 10_000;
const WATCH_MS = 500;
const BLOCK_BYTES = 512;
const MB = 2 ** 20;
const TMPFS_MAGIC = 0x01021994;

export interface FileWatch {
  /** The memory that the files use, on a file system in memory. */
  memoryMb(): number;
  stop(): void;
}

/** Watches the size of the files that a sandbox writes, and calls `onOver` when it exceeds `MAX_FILES_MB`. */
export async function watchFiles(
  { folder, pid, descendants }: { folder: string; pid: number; descendants: () => number[] },
  onOver: () => void,
): Promise<FileWatch> {
  const isInMemory = await isMemoryFolder(folder);
  let latestMb = 0;
  let isMeasuring = false;
  const measure = async () => {
    if (isMeasuring) return;
    isMeasuring = true;
    latestMb = await filesMb(folder, [pid, ...descendants()]);
    isMeasuring = false;
    if (latestMb > MAX_FILES_MB) onOver();
  };
  const timer = setInterval(measure, WATCH_MS);
  return { memoryMb: () => (isInMemory ? latestMb : 0), stop: () => clearInterval(timer) };
}

/** The size in MB, including deleted files that `pids` still have open. Infinity for too many entries. */
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

async function isMemoryFolder(folder: string): Promise<boolean> {
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
