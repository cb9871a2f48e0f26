import { isOutage } from '../db/postgres-errors.ts';
import type { Logger } from '../runtime/log.ts';
import { retry } from '../runtime/retry.ts';
import { isAway } from '../store/store.ts';

const BACKOFF = { initialMs: 50, maxMs: 2_000 };

/**
 * Retries work while the database or the store is unavailable. After `giveUp`, the last error is thrown. `onWait` is called
 * before each retry.
 */
export function persist<T>(log: Logger, giveUp: AbortSignal, write: () => Promise<T>, onWait?: () => void): Promise<T> {
  return retry(write, BACKOFF, (error, backoffMs) => {
    if (giveUp.aborted || !(isAway(error) || isOutage(error))) throw error;
    log.warn({ err: error }, 'database or store unavailable, retrying');
    onWait?.();
    return backoffMs;
  });
}
