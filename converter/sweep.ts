import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { deleteOldEvents } from '../db/events.ts';
import { deleteOldJobs, listResultPaths } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { endsOfUploads, isOver, listOver, listPagePaths } from '../db/uploads.ts';
import { deleteUpload } from '../jobs/uploads.ts';
import type { Logger } from '../log.ts';
import { INCOMING, readPath, UPLOADS, uploadFolder } from '../store/paths.ts';
import type { Store } from '../store/store.ts';
import { archive } from '../tasks/archive.ts';

/** What has had its time, and files that no row accounts for. Each batch stands alone: a sweep that is cut off goes on with the next. */

export interface SweepParts {
  db: Database;
  queues: Queues;
  store: Store;
  log: Logger;
}

/** Any two constants will do, as long as all converters agree on them. */
const HISTORY_LOCK = 7_311_004;
const STORE_LOCK = 7_311_005;
/** Most uploads for each reason, and most batches of jobs and of events, in one round. */
const MOST_UPLOADS = 1_000;
const MOST_BATCHES = 20;
const JOBS = 500;
const EVENTS = 5_000;
/** Folders of uploads that are compared with the rows at a time. */
const FOLDERS = 100;

/** A file that is no older may be about to be recorded: a request may take an hour, and writing is done before recording. */
export const ORPHAN_AGE_MS = 6 * 3_600_000;

/**
 * Deletes uploads whose `expires_at` has passed, whatever they are about; and, once they are older than so many days,
 * uploads and jobs that have ended, and events. `signal` ends it between two of them.
 */
export async function sweepHistory(
  parts: SweepParts,
  retentionDays: number | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { db, queues, store, log } = parts;
  for (const id of await listOver(db, retentionDays, MOST_UPLOADS)) {
    if (signal.aborted) return;
    const swept = await alone(db, HISTORY_LOCK, async () => {
      try {
        // Rows first: what a crash leaves then are files without a row, which are found.
        if (await deleteUpload(db, queues, id, isOver(retentionDays))) await store.removeFolder(uploadFolder(id));
      } catch (error) {
        // The others must not wait for it.
        log.error({ err: error, upload: id }, 'upload not swept');
      }
    });
    if (!swept) return;
  }
  if (retentionDays === undefined) return;
  const sweepAll = async (deleteOld: typeof deleteOldJobs, limit: number) => {
    let deleted = limit;
    for (let batch = 0; batch < MOST_BATCHES && deleted === limit && !signal.aborted; batch++) {
      const swept = await alone(db, HISTORY_LOCK, async () => {
        deleted = await deleteOld(db, retentionDays, limit);
      });
      if (!swept) return;
    }
  };
  await sweepAll(deleteOldJobs, JOBS);
  await sweepAll(deleteOldEvents, EVENTS);
}

/**
 * Removes old files that no row accounts for: what was received and not kept, folders of uploads that are not there, and
 * in those of uploads that have ended, pages and archives that nobody recorded. `signal` ends it between two batches.
 */
export async function sweepStore(parts: SweepParts, signal: AbortSignal): Promise<void> {
  const { db, store } = parts;
  const received = await alone(db, STORE_LOCK, async () => {
    for await (const path of store.files(INCOMING)) if (await isOld(store, path)) await store.removeFile(path);
  });
  if (!received) return;
  let folders = new Map<string, string[]>();
  for await (const path of store.files(UPLOADS)) {
    if (signal.aborted) return;
    const uploadId = readPath(path)?.uploadId;
    if (uploadId === undefined) continue;
    const files = folders.get(uploadId);
    if (files !== undefined) files.push(path);
    else {
      if (folders.size === FOLDERS) {
        if (!(await sweepFolders(parts, folders))) return;
        folders = new Map();
      }
      folders.set(uploadId, [path]);
    }
  }
  await sweepFolders(parts, folders);
}

/** Gives false, and does nothing, while another converter sweeps. */
function sweepFolders({ db, store, log }: SweepParts, folders: Map<string, string[]>): Promise<boolean> {
  return alone(db, STORE_LOCK, async () => {
    // The rows are read after the files, so that a file that is not in them was no one's when it was seen.
    const ends = await endsOfUploads(db, [...folders.keys()]);
    const made: { path: string; uploadId: string; archive: boolean }[] = [];
    for (const [uploadId, files] of folders) {
      const end = ends.get(uploadId);
      if (end === undefined) await removeOrphan(uploadId, files);
      // What still works may be about to record more.
      else if (end !== null) {
        for (const path of files) {
          const kind = readPath(path)?.made;
          if (kind !== undefined) made.push({ path, uploadId, archive: kind === 'archives' });
        }
      }
    }
    const archived = [...new Set(made.filter((file) => file.archive).map(({ uploadId }) => uploadId))];
    const recorded = new Set([
      ...(await listPagePaths(db, [...new Set(made.map(({ uploadId }) => uploadId))])),
      ...(archived.length > 0 ? await listResultPaths(db, archive.type, archived) : []),
    ]);
    for (const { path } of made) {
      if (recorded.has(path) || !(await isOld(store, path))) continue;
      await store.removeFile(path);
      log.info({ path }, 'orphaned file removed');
    }
  });

  async function removeOrphan(uploadId: string, files: string[]): Promise<void> {
    for (const path of files) if (!(await isOld(store, path))) return;
    await store.removeFolder(uploadFolder(uploadId));
    log.info({ upload: uploadId }, 'orphaned folder removed');
  }
}

async function isOld(store: Store, path: string): Promise<boolean> {
  const modified = await store.modifiedAt(path);
  return modified === undefined || Date.now() - modified.getTime() > ORPHAN_AGE_MS;
}

/** Does `work` unless another converter holds the lock just now; gives whether it did. */
async function alone(db: Database, lock: number, work: () => Promise<void>): Promise<boolean> {
  return db.transaction(async (tx) => {
    const { rows } = await tx.execute<{ got: boolean }>(sql`select pg_try_advisory_xact_lock(${lock}) as got`);
    if (rows[0]?.got) await work();
    return rows[0]?.got === true;
  });
}
