import { chmod, lstat, mkdir, mkdtemp, readdir, utimes } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import type { Config } from '../../runtime/config.ts';
import { removeTree } from './remove-tree.ts';

/** A folder that no converter has touched for this long belongs to a host that is gone. */
const MAX_AGE_MS = 24 * 3_600_000;
/** Others may pass through to a folder that is theirs, and see no name in it. */
const PASS_THROUGH = 0o711;

/** Folders of this process that are in use. */
const mine = new Set<string>();

/** Beside a disk store, where a copy may share its blocks with the original; else in the temporary folder. */
function placeFor({ STORE_URL, DATA_DIR }: Pick<Config, 'STORE_URL' | 'DATA_DIR'>): string {
  return STORE_URL === undefined ? path.join(DATA_DIR, 'work') : tmpdir();
}

/**
 * The folder for all files of one running converter. It first removes those of killed converters: other hosts may use
 * the same disk, so a process id counts on its own host only, and age counts on all.
 */
export async function openWorkFolder(config: Pick<Config, 'STORE_URL' | 'DATA_DIR'>) {
  const place = placeFor(config);
  await mkdir(place, { recursive: true });
  await removeOld(place);
  const folder = await mkdtemp(path.join(place, `sheetmill-work-${hostname()}-${process.pid}-`));
  mine.add(folder);
  await chmod(folder, PASS_THROUGH);
  return {
    path: folder,
    /** Shows the converters of other hosts that this one lives. */
    async touch(): Promise<void> {
      await utimes(folder, new Date(), new Date());
    },
    async close(): Promise<void> {
      await removeTree(folder);
      mine.delete(folder);
    },
  };
}

async function removeOld(place: string): Promise<void> {
  for (const name of await readdir(place)) {
    const [, host, pid] = /^sheetmill-work-(.+)-(\d+)-[^-]+$/.exec(name) ?? [];
    if (pid === undefined) continue;
    const folder = path.join(place, name);
    const found = await lstat(folder).catch(() => undefined);
    // In a temporary folder others may use such a name, too.
    if (!found?.isDirectory() || found.uid !== (process.getuid?.() ?? found.uid)) continue;
    const isKilled = host === hostname() && !(Number(pid) === process.pid ? mine.has(folder) : isAlive(Number(pid)));
    if (isKilled || Date.now() - found.mtimeMs > MAX_AGE_MS) await removeTree(folder);
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
