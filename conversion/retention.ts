import { setTimeout as delay } from 'node:timers/promises';
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
import { deleteEndedUploads, deleteUpload } from './delete-upload.ts';

export interface RetentionParts {
  db: Database;
  queues: Queues;
  store: Store;
  log: Logger;
}

/** Rows per batch, which is deleted within some tenths of a second. */
const MAX_UPLOADS = 200;
const MAX_JOBS = 1_000;
const MAX_EVENTS = 10_000;
const MAX_HOSTS = 1_000;
const MAX_PARALLEL_FOLDERS = 16;
/** The pause after a batch, relative to its duration, in which Postgres and the store do other work. */
const PAUSE_RATIO = 0.25;
/** The backoff of a row that cannot be deleted; it doubles each time. */
const MIN_BACKOFF_MS = 60_000;
const MAX_BACKOFF_MS = 6 * 3_600_000;
/** Postgres cancelled a statement that took too long; a smaller batch may succeed. */
const STATEMENT_TIMEOUT = '57014';

/** Deletes one batch of a kind. Returns whether there may be more. */
type NextBatch = () => Promise<boolean>;

/**
 * Deletes expired uploads, whatever their status, and ended uploads, ended jobs and events that are older than `days`.
 * Converters share the work: each takes rows that no other has locked.
 */
export class Retention {
  readonly #parts: RetentionParts;
  readonly #days: number | undefined;
  /** The backoff of uploads and jobs that could not be deleted. */
  readonly #failures = new Map<string, { count: number; retryAt: number }>();

  constructor(parts: RetentionParts, days: number | undefined) {
    this.#parts = parts;
    this.#days = days;
  }

  /** Deletes everything that is due, one batch of each kind in turn. `signal` ends it between two batches. */
  async round(signal: AbortSignal): Promise<void> {
    let kinds = this.#kinds();
    while (kinds.length > 0 && !signal.aborted) {
      const unfinished: NextBatch[] = [];
      for (const deleteNext of kinds) {
        if (signal.aborted) return;
        const began = performance.now();
        if (await deleteNext()) unfinished.push(deleteNext);
        await delay((performance.now() - began) * PAUSE_RATIO, undefined, { signal }).catch(() => undefined);
      }
      kinds = unfinished;
    }
  }

  #kinds(): NextBatch[] {
    const { db } = this.#parts;
    const days = this.#days;
    const hosts = async () => (await forgetHosts(db, MAX_HOSTS)) === MAX_HOSTS;
    const expired = this.#uploads({ expired: true });
    if (days === undefined) return [expired, hosts];
    return [expired, this.#uploads({ days }), this.#jobs(days), this.#events(days), hosts];
  }

  #uploads(reason: { expired: true } | { days: number }): NextBatch {
    const { db, queues } = this.#parts;
    const isDue = 'days' in reason ? endedBefore(reason.days) : isExpired;
    return this.#inOrder(MAX_UPLOADS, async (batch) => {
      const found = await listExpiredUploads(db, reason, batch);
      const ended = found.filter(({ isLive }) => !isLive).map(({ id }) => id);
      await this.#deleteHalving(ended, async (ids) => this.#removeFolders(await deleteEndedUploads(db, ids, isDue)));
      for (const { id, isLive } of found) {
        if (!isLive) continue;
        await this.#deleteHalving([id], async () => {
          if (await deleteUpload(db, queues, id, isDue)) await this.#removeFolders([id]);
        });
      }
      return found;
    });
  }

  #jobs(days: number): NextBatch {
    const { db } = this.#parts;
    return this.#inOrder(MAX_JOBS, async (batch) => {
      const found = await listExpiredJobs(db, days, batch);
      await this.#deleteHalving(
        found.map(({ id }) => id),
        (ids) => deleteOldJobs(db, ids, days),
      );
      return found;
    });
  }

  #events(days: number): NextBatch {
    let after = 0;
    return async () => {
      const last = await deleteOldEvents(this.#parts.db, days, { after, limit: MAX_EVENTS });
      if (last !== undefined) after = last;
      return last !== undefined;
    };
  }

  /** Visits each row once per round, including rows that stay because they are locked or cannot be deleted. */
  #inOrder(limit: number, deleteBatch: (batch: Batch) => Promise<Place[]>): NextBatch {
    let after: Place | undefined;
    return async () => {
      const last = (await deleteBatch({ after, without: this.#backingOff(), limit })).at(-1);
      if (last !== undefined) after = last;
      return last !== undefined;
    };
  }

  /** Deletes a batch. A batch that fails is halved until the failing row is alone, which then backs off. */
  async #deleteHalving(ids: string[], deleteAll: (ids: string[]) => Promise<unknown>): Promise<void> {
    if (ids.length === 0) return;
    try {
      await deleteAll(ids);
      for (const id of ids) this.#failures.delete(id);
    } catch (error) {
      if (isOutage(error) && postgresCode(error) !== STATEMENT_TIMEOUT) throw error;
      const [id] = ids;
      if (ids.length === 1 && id !== undefined) return this.#backOff(id, error);
      const middle = ids.length >> 1;
      await this.#deleteHalving(ids.slice(0, middle), deleteAll);
      await this.#deleteHalving(ids.slice(middle), deleteAll);
    }
  }

  #backOff(id: string, error: unknown): void {
    const count = (this.#failures.get(id)?.count ?? 0) + 1;
    const backoffMs = Math.min(MIN_BACKOFF_MS * 2 ** (count - 1), MAX_BACKOFF_MS);
    this.#failures.set(id, { count, retryAt: Date.now() + backoffMs });
    if (count === 1) this.#parts.log.error({ err: error, id }, 'retention could not delete a row');
  }

  #backingOff(): string[] {
    const now = Date.now();
    for (const [id, { retryAt }] of this.#failures) {
      // Another converter has deleted it, or it would have failed again.
      if (retryAt + MAX_BACKOFF_MS < now) this.#failures.delete(id);
    }
    return [...this.#failures].filter(([, { retryAt }]) => retryAt > now).map(([id]) => id);
  }

  /** Called after the rows are deleted. A crash in between leaves files for the store sweep. */
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
