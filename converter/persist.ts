import { setTimeout as delay } from 'node:timers/promises';
import { isOutage } from '../db/client.ts';
import type { Logger } from '../log.ts';

/** Work that must reach the database is tried until it does, or until `giveUp`: then the last error is thrown. */
export async function persist<T>(log: Logger, giveUp: AbortSignal, write: () => Promise<T>): Promise<T> {
  for (let wait = 50; ; wait = Math.min(wait * 2, 2_000)) {
    try {
      return await write();
    } catch (error) {
      if (giveUp.aborted || !isOutage(error)) throw error;
      log.warn({ err: error }, 'database not reached; trying again');
      await delay(wait);
    }
  }
}
