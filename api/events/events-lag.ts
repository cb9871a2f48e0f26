import type { Database } from '../../db/client.ts';
import { findOldestTransaction, readEventsHealth } from '../../db/events.ts';
import type { Logger } from '../../runtime/log.ts';

const CHECK_MS = 5_000;
const MAX_LAG_SECONDS = 10;

export interface LagWarnings {
  /** Stops after a running check. */
  close(): Promise<void>;
}

/** Warns once when an open transaction delays the stream for longer than `maxLagSeconds`, and logs the end of the delay. */
export function warnOfLag(
  db: Database,
  log: Pick<Logger, 'warn' | 'info' | 'debug'>,
  { checkMs = CHECK_MS, maxLagSeconds = MAX_LAG_SECONDS } = {},
): LagWarnings {
  let isLate = false;
  let checking: Promise<void> | undefined;

  async function check(): Promise<void> {
    const { lagSeconds } = await readEventsHealth(db);
    const wasLate = isLate;
    isLate = lagSeconds > maxLagSeconds;
    if (isLate && !wasLate) {
      const oldest = await findOldestTransaction(db);
      log.warn({ lagSeconds, oldest }, 'an open transaction delays the stream of events');
    }
    if (wasLate && !isLate) log.info('the stream of events is no longer delayed');
  }

  const timer = setInterval(() => {
    checking ??= check()
      .catch((error) => log.debug({ err: error }, 'delay of the stream could not be read'))
      .finally(() => {
        checking = undefined;
      });
  }, checkMs);

  return {
    async close() {
      clearInterval(timer);
      await checking;
    },
  };
}
