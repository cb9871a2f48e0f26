import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { Logger } from '../runtime/log.ts';
import { connectionTo } from './connection.ts';

const QUERY_MS = 10_000;
const MIN_RETRY_MS = 500;
const MAX_RETRY_MS = 5_000;

interface ListenerOptions {
  name: string;
  log: Logger;
  /** The function of each channel. It gets an empty payload after each (re)connect, since notifications may be lost. */
  channels: Record<string, (payload: string) => void>;
}

/**
 * Calls a channel's function with the payload of each NOTIFY. Holds one separate connection, and replaces a lost one after
 * a random delay, so that not all processes connect at once to a Postgres that has restarted.
 */
export function listen(url: string, options: ListenerOptions): Listener {
  return new Listener(url, options);
}

export class Listener {
  readonly #url: string;
  readonly #options: ListenerOptions;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;
  #client: pg.Client | undefined;
  /** Attempts since the last connection. */
  #attempts = 0;

  constructor(url: string, options: ListenerOptions) {
    this.#url = url;
    this.#options = options;
    this.#running = this.#run();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#client?.end().catch(() => undefined);
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await this.#listenUntilLost().catch((error) => this.#options.log.warn({ err: error }, 'listener not connected'));
      const retryMs = Math.random() * Math.min(MAX_RETRY_MS, MIN_RETRY_MS * 2 ** this.#attempts++);
      // An abort ends the delay and the loop.
      await delay(retryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #listenUntilLost(): Promise<void> {
    const { name, log, channels } = this.#options;
    const client = new pg.Client({ ...connectionTo(this.#url, { name }), query_timeout: QUERY_MS });
    const lost = new Promise<void>((resolve) => {
      client.on('end', resolve);
      client.on('error', (error) => {
        log.warn({ err: error }, 'listener connection lost');
        resolve();
      });
    });
    this.#client = client;
    try {
      // A connection that `close()` ends while it is made never answers.
      await Promise.race([client.connect(), lost]);
      if (this.#closing.signal.aborted) return;
      client.on('notification', ({ channel, payload = '' }) => channels[channel]?.(payload));
      for (const [channel, onNotify] of Object.entries(channels)) {
        await client.query(`listen ${client.escapeIdentifier(channel)}`);
        onNotify('');
      }
      this.#attempts = 0;
      await lost;
    } finally {
      await client.end().catch(() => undefined);
    }
  }
}
