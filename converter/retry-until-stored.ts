import { setTimeout as delay } from 'node:timers/promises';
import { isOutage } from '../db/client.ts';
import type { Logger } from '../runtime/log.ts';
import { isAway } from '../store/store.ts';

/**
 * Retries work while the database or the store is unavailable. After `giveUp`, the last error is thrown. `onWait` is called
 * before each retry.
 */
export async function persist<T>(
  log: Logger,
  giveUp: AbortSignal,
  write: () => Promise<T>,
  onWait?: () => void,
): Promise<T> {
  for (let wait = 50; ; wait = Math.min(wait * 2, 2_000)) {
    try {
      return await write();
    } catch (error) {
      if (giveUp.aborted || !(isAway(error) || isOutage(error))) throw error;
      log.warn({ err: error }, 'database or store unavailable, retrying');
      onWait?.();
      await delay(wait);
    }
  }
}
