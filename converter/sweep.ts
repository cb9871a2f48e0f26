import { archive } from '../conversion/tasks/archive.ts';
import type { Database } from '../db/client.ts';
import { listResultPaths } from '../db/jobs.ts';
import { withLock } from '../db/locks.ts';
import { findUploadEnds, listPagePaths } from '../db/uploads.ts';
import type { Logger } from '../runtime/log.ts';
import { readPath, UPLOADS, uploadFolder } from '../store/paths.ts';
import type { Store } from '../store/store.ts';

/** Files that no row accounts for. Each batch stands alone: a sweep that is cut off goes on with the next. */

export interface SweepParts {
  db: Database;
  store: Store;
  log: Logger;
}

/** Folders of uploads that are compared with the rows at a time. */
const FOLDERS = 100;

/** A file that is no older may be about to be recorded: a request may take an hour, and writing is done before recording. */
export const ORPHAN_AGE_MS = 6 * 3_600_000;

/**
 * Removes old files that no row accounts for: what was received and not kept, folders of uploads that are not there, and
 * in those of uploads that have ended, pages and archives that nobody recorded. Nothing while another converter does it;
 * `signal` ends it between two batches.
 */
export async function sweepStore(parts: SweepParts, signal: AbortSignal): Promise<void> {
  const { db, store, log } = parts;
  await withLock(db, 'storeSweep', async () => {
    for await (const { name, began, remove } of store.unfinished()) {
      if (signal.aborted) return;
      if (isOld(began)) await orLogged(log, name, remove);
    }
    let folders = new Map<string, string[]>();
    for await (const path of store.files(UPLOADS)) {
      if (signal.aborted) return;
      const uploadId = readPath(path)?.uploadId;
      if (uploadId === undefined) continue;
      const files = folders.get(uploadId);
      if (files !== undefined) files.push(path);
      else {
        if (folders.size === FOLDERS) {
          await sweepFolders(parts, folders);
          folders = new Map();
        }
        folders.set(uploadId, [path]);
      }
    }
    await sweepFolders(parts, folders);
  });
}

/** The rows are read after the files, so that a file that is not in them was no one's when it was seen. */
async function sweepFolders({ db, store, log }: SweepParts, folders: Map<string, string[]>): Promise<void> {
  const ends = await findUploadEnds(db, [...folders.keys()]);
  const made: { path: string; uploadId: string; archive: boolean }[] = [];
  for (const [uploadId, files] of folders) {
    const end = ends.get(uploadId);
    // What still works may be about to record more.
    if (end === null) continue;
    if (end === undefined) {
      await orLogged(log, uploadId, async () => {
        for (const path of files) if (!isOld(await store.modifiedAt(path))) return;
        await store.removeFolder(uploadFolder(uploadId));
        log.info({ upload: uploadId }, 'orphaned folder removed');
      });
    } else {
      for (const path of files) {
        const kind = readPath(path)?.made;
        if (kind !== undefined) made.push({ path, uploadId, archive: kind === 'archives' });
      }
    }
  }
  const uploadsOf = (files: typeof made) => [...new Set(files.map(({ uploadId }) => uploadId))];
  const archived = uploadsOf(made.filter((file) => file.archive));
  const recorded = new Set([
    ...(await listPagePaths(db, uploadsOf(made))),
    ...(archived.length > 0 ? await listResultPaths(db, archive.type, archived) : []),
  ]);
  for (const { path } of made) {
    if (recorded.has(path)) continue;
    await orLogged(log, path, async () => {
      if (!isOld(await store.modifiedAt(path))) return;
      await store.removeFile(path);
      log.info({ path }, 'orphaned file removed');
    });
  }
}

function isOld(modified: Date | undefined): boolean {
  return modified === undefined || Date.now() - modified.getTime() > ORPHAN_AGE_MS;
}

/** What cannot be removed must not keep all else from it. */
async function orLogged(log: Logger, what: string, work: () => Promise<void>): Promise<void> {
  await work().catch((error) => log.error({ err: error, what }, 'not swept'));
}
