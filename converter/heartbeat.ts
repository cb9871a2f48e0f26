import { and, eq, sql } from 'drizzle-orm';
import { type OpenPool, openPool } from '../db/client.ts';
import { connectionTo } from '../db/connection.ts';
import { converters } from '../db/schema.ts';
import { ConverterLost } from '../jobs/claim.ts';
import type { Logger } from '../runtime/log.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';

const HEARTBEAT_MS = 3_000;
/** The pause after a failure. It is short, so that a converter beats again before it is declared lost. */
const RETRY_MS = 500;
/** The maximum age of the leader's heartbeat before a round of maintenance. */
const MAX_AGE_MS = HEARTBEAT_MS + 1_000;
const CONNECT_MS = 2_000;
const STATEMENT_MS = 3_000;
/** A converter that missed three heartbeats gets no wake-ups. */
const PEER_SECONDS = 10;
/** Longer than the pause between two heartbeats, in which the connection is silent. */
const SILENT_MS = 4_000;

/**
 * Sends the heartbeat of a converter every three seconds. It uses a separate connection with short timeouts, because all
 * connections of the pool may wait for locks. `onLost` is called when others have declared the converter lost, `onPeers`
 * after each heartbeat with the sorted ids of all live converters. The owner calls `close()`.
 */
export class Heartbeat {
  readonly #converterId: string;
  readonly #onPeers: (ids: string[]) => void;
  readonly #connection: OpenPool;
  readonly #stopped = new WakeFlag();
  readonly #repeating: Promise<void>;
  #lastSentAt = performance.now();
  #isClosed = false;

  constructor(
    url: string,
    converterId: string,
    { log, onLost, onPeers }: { log: Logger; onLost: () => void; onPeers: (ids: string[]) => void },
  ) {
    this.#converterId = converterId;
    this.#onPeers = onPeers;
    this.#connection = openPool(
      {
        ...connectionTo(url, { name: 'sheetmill-heartbeat', silentMs: SILENT_MS }),
        connectionTimeoutMillis: CONNECT_MS,
        statement_timeout: STATEMENT_MS,
        max: 1,
      },
      (error) => log.warn({ err: error }, 'heartbeat connection lost'),
    );
    this.#repeating = this.#repeat(log, onLost);
  }

  /** Sends a heartbeat unless the last one is recent. The leader calls it before it judges the heartbeats of others. */
  async refresh(): Promise<void> {
    if (performance.now() - this.#lastSentAt > MAX_AGE_MS) await this.#send();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stopped.set();
    await this.#repeating;
    await this.#connection.pool.end();
  }

  async #repeat(log: Logger, onLost: () => void): Promise<void> {
    while (!this.#isClosed) {
      const wait = await this.#send().then(
        () => HEARTBEAT_MS,
        (error) => {
          if (error instanceof ConverterLost) onLost();
          else log.warn({ err: error }, 'heartbeat failed');
          return RETRY_MS;
        },
      );
      await this.#stopped.wait(wait);
    }
  }

  async #send(): Promise<void> {
    const [updated] = await this.#connection.db
      .update(converters)
      .set({ heartbeatAt: sql`now()` })
      .where(and(eq(converters.id, this.#converterId), eq(converters.status, 'live')))
      .returning({
        peers: sql<string[]>`(select array_agg(id::text order by id) from converters peers
          where status = 'live' and (id = ${this.#converterId} or heartbeat_at > now() - make_interval(secs => ${PEER_SECONDS})))`,
      });
    if (updated === undefined) throw new ConverterLost();
    this.#lastSentAt = performance.now();
    this.#onPeers(updated.peers);
  }
}
