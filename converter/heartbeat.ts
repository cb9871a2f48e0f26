import { and, eq, sql } from 'drizzle-orm';
import { type OpenPool, openPool } from '../db/client.ts';
import { connectionTo } from '../db/connection.ts';
import { converters } from '../db/schema.ts';
import { ConverterLost } from '../jobs/claim.ts';
import type { Logger } from '../runtime/log.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';

const HEARTBEAT_MS = 3_000;
/** After a failure: what comes back must be heard well before it is declared lost. */
const RETRY_MS = 500;
/** A round of the leader needs a heartbeat that is no older. */
const MAX_AGE_MS = HEARTBEAT_MS + 1_000;
const CONNECT_MS = 2_000;
const STATEMENT_MS = 3_000;
/** One that missed three heartbeats is not woken for jobs. */
const PEER_SECONDS = 10;
/** Longer than the pause between two heartbeats, as silence then is no sign. */
const SILENT_MS = 4_000;

/**
 * Tells Postgres every three seconds that a converter lives. It has a separate connection, since those of the pool may
 * all wait for locks, and gives up early on one that does not answer. `onLost` is called when others have declared the
 * converter lost, `onPeers` after each heartbeat with the sorted ids of all converters that live. The owner calls `close()`.
 */
export class Heartbeat {
  readonly #converterId: string;
  readonly #onPeers: (ids: string[]) => void;
  readonly #connection: OpenPool;
  readonly #stopped = new WakeFlag();
  readonly #beating: Promise<void>;
  #lastBeat = performance.now();
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
    this.#beating = this.#repeat(log, onLost);
  }

  /** Beats now unless it did so lately: the leader must not judge the heartbeats of others by its own that is old. */
  async refresh(): Promise<void> {
    if (performance.now() - this.#lastBeat > MAX_AGE_MS) await this.#beat();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stopped.set();
    await this.#beating;
    await this.#connection.pool.end();
  }

  async #repeat(log: Logger, onLost: () => void): Promise<void> {
    while (!this.#isClosed) {
      const wait = await this.#beat().then(
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

  async #beat(): Promise<void> {
    const [alive] = await this.#connection.db
      .update(converters)
      .set({ heartbeatAt: sql`now()` })
      .where(and(eq(converters.id, this.#converterId), eq(converters.status, 'live')))
      .returning({
        peers: sql<string[]>`(select array_agg(id::text order by id) from converters peers
          where status = 'live' and (id = ${this.#converterId} or heartbeat_at > now() - make_interval(secs => ${PEER_SECONDS})))`,
      });
    if (alive === undefined) throw new ConverterLost();
    this.#lastBeat = performance.now();
    this.#onPeers(alive.peers);
  }
}
