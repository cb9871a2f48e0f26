import { isOutage } from '../db/postgres-errors.ts';
import type { Logger } from '../runtime/log.ts';
import { retry } from '../runtime/retry.ts';
import { isAway } from '../store/store.ts';

const BACKOFF = { initialMs: 50, maxMs: 2_000 };

/**
 * Work that must reach the database, or the store, is tried until it does, or until `giveUp`: then the last error is
 * thrown. `onWait` is called before each further try.
 */
export function persist<T>(log: Logger, giveUp: AbortSignal, write: () => Promise<T>, onWait?: () => void): Promise<T> {
  return retry(write, BACKOFF, (error, backoffMs) => {
    if (giveUp.aborted || !(isAway(error) || isOutage(error))) throw error;
    log.warn({ err: error }, 'not reached; trying again');
    onWait?.();
    return backoffMs;
  });
}
