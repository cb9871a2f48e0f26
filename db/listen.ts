import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { Logger } from '../log.ts';
import { connectionTo } from './connection.ts';

const QUERY_MS = 10_000;

/**
 * Calls a channel's function at each NOTIFY on it, and each once after every (re)connect, since what came in between was
 * missed. Holds one connection of its own; a lost one is opened again until `close()`.
 */
export function listen(
  url: string,
  { name, log, channels }: { name: string; log: Logger; channels: Record<string, () => void> },
) {
  let closed = false;
  let current: pg.Client | undefined;

  async function hold(): Promise<void> {
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
      await client.connect();
      client.on('notification', ({ channel }) => channels[channel]?.());
      for (const [channel, onNotify] of Object.entries(channels)) {
        await client.query(`listen ${client.escapeIdentifier(channel)}`);
        onNotify();
      }
      await ended;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  const running = (async () => {
    while (!closed) {
      await hold().catch((error) => log.warn({ err: error }, 'cannot listen'));
      if (!closed) await delay(500);
    }
  })();

  return {
    async close(): Promise<void> {
      closed = true;
      await current?.end().catch(() => undefined);
      await running;
    },
  };
}
