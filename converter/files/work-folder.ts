import { chmod, lstat, mkdir, mkdtemp, readdir, utimes } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import type { Config } from '../../runtime/config.ts';
import { errorCode } from '../../runtime/errors.ts';
import { removeTree } from './remove-tree.ts';

/** A folder that was not touched for this long belongs to a host that is gone. */
const MAX_AGE_MS = 24 * 3_600_000;
/** Other users reach their folders inside, and cannot list it. */
const PASS_THROUGH = 0o711;

/** The open work folders of this process. */
const openFolders = new Set<string>();

/** The path of one converter's folder for all its files. The owner calls `close()`. */
export interface WorkFolder {
  path: string;
  /** Marks the folder as in use, for converters on other hosts. */
  touch(): Promise<void>;
  /** Removes the folder. */
  close(): Promise<void>;
}

/** Beside a disk store, where a copy may share blocks with the original; otherwise in the temporary folder. */
function placeFor({ STORE_URL, DATA_DIR }: Pick<Config, 'STORE_URL' | 'DATA_DIR'>): string {
  return STORE_URL === undefined ? path.join(DATA_DIR, 'work') : tmpdir();
}

/**
 * Creates a work folder, and removes those of killed converters first. Several hosts may share the disk: a process id is
 * valid only on its host, so folders of other hosts are removed by age.
 */
export async function openWorkFolder(config: Pick<Config, 'STORE_URL' | 'DATA_DIR'>): Promise<WorkFolder> {
  const place = placeFor(config);
  await mkdir(place, { recursive: true });
  await removeOld(place);
  const folder = await mkdtemp(path.join(place, `sheetmill-work-${hostname()}-${process.pid}-`));
  openFolders.add(folder);
  await chmod(folder, PASS_THROUGH);
  return {
    path: folder,
    async touch(): Promise<void> {
      await utimes(folder, new Date(), new Date());
    },
    async close(): Promise<void> {
      await removeTree(folder);
      openFolders.delete(folder);
    },
  };
}

async function removeOld(place: string): Promise<void> {
  for (const name of await readdir(place)) {
    const [, host, pid] = /^sheetmill-work-(.+)-(\d+)-[^-]+$/.exec(name) ?? [];
    if (pid === undefined) continue;
    const folder = path.join(place, name);
    const found = await lstat(folder).catch(() => undefined);
    // Other users may create such a name in the temporary folder.
    if (!found?.isDirectory() || found.uid !== (process.getuid?.() ?? found.uid)) continue;
    const isKilled =
      host === hostname() && !(Number(pid) === process.pid ? openFolders.has(folder) : isAlive(Number(pid)));
    if (isKilled || Date.now() - found.mtimeMs > MAX_AGE_MS) await removeTree(folder);
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errorCode(error) === 'EPERM';
  }
}
