import { setTimeout as delay } from 'node:timers/promises';
import { deleteEndedUploads, deleteUpload } from '../conversion/change-upload.ts';
import type { Database } from '../db/client.ts';
import { isOutage, postgresCode } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import {
  type Batch,
  deleteOldEvents,
  endedBefore,
  isExpired,
  listExpiredJobs,
  listExpiredUploads,
  type Place,
} from '../db/retention.ts';
import { forgetHosts } from '../db/webhooks.ts';
import { deleteOldJobs } from '../jobs/delete.ts';
import type { Logger } from '../runtime/log.ts';
import { uploadFolder } from '../store/paths.ts';
import type { Store } from '../store/store.ts';

export interface RetentionParts {
  db: Database;
  queues: Queues;
  store: Store;
  log: Logger;
}

/** Rows of a batch: each is deleted within some tenths of a second. */
const UPLOADS = 200;
const JOBS = 1_000;
const EVENTS = 10_000;
const HOSTS = 1_000;
const MAX_PARALLEL_FOLDERS = 16;
/** Between two batches, as a part of the time that the last one took: other work of Postgres and the store gets its turn. */
const REST = 0.25;
/** How long a row that cannot be deleted is left alone: doubled each time. */
const MIN_BACKOFF_MS = 60_000;
const MAX_BACKOFF_MS = 6 * 3_600_000;
/** Postgres cancelled a statement that took too long: a smaller batch may do. */
const CANCELLED = '57014';

/** Deletes one batch of a kind; gives whether there may be more. */
type NextBatch = () => Promise<boolean>;

/**
 * Deletes uploads whose `expires_at` has passed, whatever they do; and, once they are older than so many days, uploads and
 * jobs that have ended, and events. Converters share the work: each takes rows that no other has locked.
 */
export class Retention {
  readonly #parts: RetentionParts;
  readonly #days: number | undefined;
  /** Uploads and jobs that could not be deleted: how often, and until when they are left alone. */
  readonly #refused = new Map<string, { times: number; until: number }>();

  constructor(parts: RetentionParts, days: number | undefined) {
    this.#parts = parts;
    this.#days = days;
  }

  /** Deletes all that is over, one batch of each kind in turn. `signal` ends it between two batches. */
  async round(signal: AbortSignal): Promise<void> {
    let kinds = this.#kinds();
    while (kinds.length > 0 && !signal.aborted) {
      const unfinished: NextBatch[] = [];
      for (const deleteNext of kinds) {
        if (signal.aborted) return;
        const began = performance.now();
        if (await deleteNext()) unfinished.push(deleteNext);
        await delay((performance.now() - began) * REST, undefined, { signal }).catch(() => undefined);
      }
      kinds = unfinished;
    }
  }

  #kinds(): NextBatch[] {
    const { db } = this.#parts;
    const days = this.#days;
    const hosts = async () => (await forgetHosts(db, HOSTS)) === HOSTS;
    const expired = this.#uploads({ expired: true });
    if (days === undefined) return [expired, hosts];
    return [expired, this.#uploads({ days }), this.#jobs(days), this.#events(days), hosts];
  }

  #uploads(reason: { expired: true } | { days: number }): NextBatch {
    const { db, queues } = this.#parts;
    const isOver = 'days' in reason ? endedBefore(reason.days) : isExpired;
    return this.#inOrder(UPLOADS, async (batch) => {
      const found = await listExpiredUploads(db, reason, batch);
      const ended = found.filter(({ isLive }) => !isLive).map(({ id }) => id);
      await this.#deleteApart(ended, async (ids) => this.#removeFolders(await deleteEndedUploads(db, ids, isOver)));
      for (const { id, isLive } of found) {
        if (!isLive) continue;
        await this.#deleteApart([id], async () => {
          if (await deleteUpload(db, queues, id, isOver)) await this.#removeFolders([id]);
        });
      }
      return found;
    });
  }

  #jobs(days: number): NextBatch {
    const { db } = this.#parts;
    return this.#inOrder(JOBS, async (batch) => {
      const found = await listExpiredJobs(db, days, batch);
      await this.#deleteApart(
        found.map(({ id }) => id),
        (ids) => deleteOldJobs(db, ids, days),
      );
      return found;
    });
  }

  #events(days: number): NextBatch {
    let after = 0;
    return async () => {
      const last = await deleteOldEvents(this.#parts.db, days, { after, limit: EVENTS });
      if (last !== undefined) after = last;
      return last !== undefined;
    };
  }

  /** Passes each row once, so that those which stay, or which others have locked, do not come again. */
  #inOrder(limit: number, deleteBatch: (batch: Batch) => Promise<Place[]>): NextBatch {
    let after: Place | undefined;
    return async () => {
      const last = (await deleteBatch({ after, without: this.#resting(), limit })).at(-1);
      if (last !== undefined) after = last;
      return last !== undefined;
    };
  }

  /** Deletes a batch; one that fails is halved until what makes it fail stands alone, which is then left for a while. */
  async #deleteApart(ids: string[], deleteAll: (ids: string[]) => Promise<unknown>): Promise<void> {
    if (ids.length === 0) return;
    try {
      await deleteAll(ids);
      for (const id of ids) this.#refused.delete(id);
    } catch (error) {
      if (isOutage(error) && postgresCode(error) !== CANCELLED) throw error;
      const [id] = ids;
      if (ids.length === 1 && id !== undefined) return this.#refuse(id, error);
      const middle = ids.length >> 1;
      await this.#deleteApart(ids.slice(0, middle), deleteAll);
      await this.#deleteApart(ids.slice(middle), deleteAll);
    }
  }

  #refuse(id: string, error: unknown): void {
    const times = (this.#refused.get(id)?.times ?? 0) + 1;
    const wait = Math.min(MIN_BACKOFF_MS * 2 ** (times - 1), MAX_BACKOFF_MS);
    this.#refused.set(id, { times, until: Date.now() + wait });
    if (times === 1) this.#parts.log.error({ err: error, id }, 'retention could not delete a row');
  }

  #resting(): string[] {
    const now = Date.now();
    for (const [id, { until }] of this.#refused) {
      // Deleted by others, or it would have been refused again.
      if (until + MAX_BACKOFF_MS < now) this.#refused.delete(id);
    }
    return [...this.#refused].filter(([, { until }]) => until > now).map(([id]) => id);
  }

  /** After their rows: a crash in between leaves files without a row, which the sweep of the store finds. */
  async #removeFolders(uploadIds: string[]): Promise<void> {
    const { store, log } = this.#parts;
    const left = uploadIds.values();
    const removeNext = async () => {
      for (const id of left) {
        await store
          .removeFolder(uploadFolder(id))
          .catch((error) => log.error({ err: error, upload: id }, 'files of a deleted upload could not be removed'));
      }
    };
    await Promise.all(Array.from({ length: MAX_PARALLEL_FOLDERS }, removeNext));
  }
}
