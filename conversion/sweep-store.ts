import type { Database } from '../db/client.ts';
import { listResultPaths } from '../db/jobs.ts';
import { withLock } from '../db/locks.ts';
import { findUploadEnds, listPagePaths } from '../db/uploads.ts';
import type { Logger } from '../runtime/log.ts';
import { readPath, UPLOADS, uploadFolder } from '../store/paths.ts';
import type { Store } from '../store/store.ts';
import { archive } from './tasks/archive.ts';

export interface SweepParts {
  db: Database;
  store: Store;
  log: Logger;
}

/** Folders per batch. */
const MAX_FOLDERS = 100;

/** The minimum age of a removed file: a file is written before it is recorded, and a request may take an hour. */
export const ORPHAN_AGE_MS = 6 * 3_600_000;

/**
 * Removes old files without a row: unfinished files, folders of deleted uploads, and unrecorded pages and archives of ended
 * uploads. Does nothing while another converter sweeps. `signal` ends it between two batches.
 */
export async function sweepStore(parts: SweepParts, signal: AbortSignal): Promise<void> {
  const { db, store, log } = parts;
  await withLock(db, 'storeSweep', async () => {
    for await (const { name, began, remove } of store.unfinished()) {
      if (signal.aborted) return;
      if (isOld(began)) await orLog(log, name, remove);
    }
    let folders = new Map<string, string[]>();
    for await (const path of store.files(UPLOADS)) {
      if (signal.aborted) return;
      const uploadId = readPath(path)?.uploadId;
      if (uploadId === undefined) continue;
      if (folders.size === MAX_FOLDERS && !folders.has(uploadId)) {
        await sweepFolders(parts, folders);
        folders = new Map();
      }
      const files = folders.get(uploadId) ?? [];
      files.push(path);
      folders.set(uploadId, files);
    }
    await sweepFolders(parts, folders);
  });
}

/** Reads the rows after the files, so that a file without a row had none when it was listed. */
async function sweepFolders(parts: SweepParts, folders: Map<string, string[]>): Promise<void> {
  const ends = await findUploadEnds(parts.db, [...folders.keys()]);
  const made: MadeFile[] = [];
  for (const [uploadId, files] of folders) {
    const end = ends.get(uploadId);
    // An upload in progress may record more files.
    if (end === null) continue;
    if (end === undefined) await sweepDeletedUpload(parts, uploadId, files);
    else made.push(...files.flatMap((path) => madeFile(path, uploadId)));
  }
  await sweepUnrecorded(parts, made);
}

/** A page or an archive of an ended upload. */
interface MadeFile {
  path: string;
  uploadId: string;
  isArchive: boolean;
}

function madeFile(path: string, uploadId: string): MadeFile[] {
  const kind = readPath(path)?.made;
  return kind === undefined ? [] : [{ path, uploadId, isArchive: kind === 'archives' }];
}

async function sweepDeletedUpload({ store, log }: SweepParts, uploadId: string, files: string[]): Promise<void> {
  await orLog(log, uploadId, async () => {
    for (const path of files) if (!isOld(await store.modifiedAt(path))) return;
    await store.removeFolder(uploadFolder(uploadId));
    log.info({ upload: uploadId }, 'orphaned folder removed');
  });
}

async function sweepUnrecorded({ db, store, log }: SweepParts, files: MadeFile[]): Promise<void> {
  const uploadsOf = (some: MadeFile[]) => [...new Set(some.map(({ uploadId }) => uploadId))];
  const archived = uploadsOf(files.filter(({ isArchive }) => isArchive));
  const recorded = new Set([
    ...(await listPagePaths(db, uploadsOf(files))),
    ...(archived.length > 0 ? await listResultPaths(db, archive.type, archived) : []),
  ]);
  for (const { path } of files) {
    if (recorded.has(path)) continue;
    await orLog(log, path, async () => {
      if (!isOld(await store.modifiedAt(path))) return;
      await store.removeFile(path);
      log.info({ path }, 'orphaned file removed');
    });
  }
}

function isOld(modified: Date | undefined): boolean {
  return modified === undefined || Date.now() - modified.getTime() > ORPHAN_AGE_MS;
}

/** A file that cannot be removed must not stop the sweep. */
async function orLog(log: Logger, name: string, remove: () => Promise<void>): Promise<void> {
  await remove().catch((error) => log.error({ err: error, name }, 'orphaned file could not be removed'));
}
