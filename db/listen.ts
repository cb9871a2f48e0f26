import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { Logger } from '../runtime/log.ts';
import { connectionTo } from './connection.ts';

const QUERY_MS = 10_000;
const MIN_RETRY_MS = 500;
const MAX_RETRY_MS = 5_000;

/**
 * Calls a channel's function with the payload of each NOTIFY on it, and each with an empty one after every (re)connect,
 * since what came in between was missed. Holds one separate connection; a lost one is opened again until `close()`,
 * after a random delay, so that not all processes connect at once to a Postgres that has just restarted.
 */
export function listen(
  url: string,
  { name, log, channels }: { name: string; log: Logger; channels: Record<string, (payload: string) => void> },
) {
  const closing = new AbortController();
  let current: pg.Client | undefined;
  /** Tries since the last connection. */
  let tries = 0;

  async function listenUntilLost(): Promise<void> {
    const client = new pg.Client({ ...connectionTo(url, { name }), query_timeout: QUERY_MS });
    const ended = new Promise<void>((resolve) => {
      client.on('end', resolve);
      client.on('error', (error) => {
        log.warn({ err: error }, 'listening connection lost');
        resolve();
      });
    });
    current = client;
    try {
      // A connection that `close()` ends while it is being made ends without an answer.
      await Promise.race([client.connect(), ended]);
      if (closing.signal.aborted) return;
      client.on('notification', ({ channel, payload = '' }) => channels[channel]?.(payload));
      for (const [channel, onNotify] of Object.entries(channels)) {
        await client.query(`listen ${client.escapeIdentifier(channel)}`);
        onNotify('');
      }
      tries = 0;
      await ended;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  async function hold(): Promise<void> {
    while (!closing.signal.aborted) {
      await listenUntilLost().catch((error) => log.warn({ err: error }, 'cannot listen'));
      const retryMs = Math.random() * Math.min(MAX_RETRY_MS, MIN_RETRY_MS * 2 ** tries++);
      await delay(retryMs, undefined, { signal: closing.signal }).catch(() => undefined);
    }
  }
  const running = hold();

  return {
    async close(): Promise<void> {
      closing.abort();
      await current?.end().catch(() => undefined);
      await running;
    },
  };
}
