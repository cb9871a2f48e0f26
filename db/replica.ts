import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import type { Logger } from '../runtime/log.ts';
import type { Requester } from '../runtime/quota.ts';
import { type Database, type OpenPool, openPool, type Queryable, type Transaction } from './client.ts';
import { connectionTo } from './connection.ts';
import { firstRow } from './rows.ts';

/** Runs a query that only reads on a replica that is up to date, or else on `primary`. */
export type Read = <Result>(query: (db: Queryable) => Promise<Result>, primary?: Database) => Promise<Result>;

const MAX_CONNECTIONS = 10;
/** Timeouts of the replica for a connection, for catching up, and for an answer. After them the primary is read. */
const CONNECT_MS = 1_000;
const CATCH_UP_MS = 250;
const STATEMENT_MS = 2_000;
const SILENT_MS = 3_000;
/** Shorter than SILENT_MS, since an unused connection would count as broken. */
const IDLE_MS = 2_500;
/** The pause after a replica was behind or failed. */
const PAUSE_MS = 2_000;

/** The place in the log of the primary that a read must have reached: records that are inserted, written or not. */
const LOG_POSITION = sql`select pg_current_wal_insert_lsn()::text as lsn`;

/**
 * Opens a replica of the database. A client reads its own writes, through any process: the replica must have replayed the
 * log up to where the primary is now, or the primary is read. Without `url` all is read from `db`.
 */
export function openReplica(
  db: Database,
  url: string | undefined,
  log: Logger,
  requesterOf?: () => Requester,
): { read: Read; close(): Promise<void> } {
  if (url === undefined) return { read: (query, primary = db) => query(primary), close: async () => undefined };
  const pool = openPool(
    {
      ...connectionTo(url, { name: 'sheetmill-replica', silentMs: SILENT_MS }),
      connectionTimeoutMillis: CONNECT_MS,
      max: MAX_CONNECTIONS,
      statement_timeout: STATEMENT_MS,
      idleTimeoutMillis: IDLE_MS,
      requesterOf,
    },
    (error) => log.warn({ err: error }, 'idle connection to the replica lost'),
  );
  const replica = new Replica(db, pool, log);
  return {
    async read(query, primary = db) {
      const found = await replica.tryRead(query);
      return found === undefined ? query(primary) : found.result;
    },
    close: () => pool.close(),
  };
}

class Replica {
  readonly #primary: Database;
  readonly #pool: OpenPool;
  readonly #log: Logger;
  /** True after it was behind or failed, until it answers again. */
  #isSuspect = false;
  #pausedUntil = 0;

  constructor(primary: Database, pool: OpenPool, log: Logger) {
    this.#primary = primary;
    this.#pool = pool;
    this.#log = log;
  }

  /** Returns undefined if the replica is behind or out of reach. */
  async tryRead<Result>(query: (db: Queryable) => Promise<Result>): Promise<{ result: Result } | undefined> {
    if (this.#isSuspect) {
      if (performance.now() < this.#pausedUntil) return undefined;
      // One query tries the replica again, while the others go to the primary.
      this.#pause();
    }
    const { rows } = await this.#primary.execute<{ lsn: string }>(LOG_POSITION);
    const { lsn } = firstRow(rows);
    try {
      // One connection for check and query, since an address may lead to several replicas. Each statement sees the newest.
      const found = await this.#pool.db.transaction(
        async (tx) => ((await catchesUp(tx, lsn)) ? { result: await query(tx) } : undefined),
        { isolationLevel: 'read committed', accessMode: 'read only' },
      );
      this.#isSuspect = false;
      if (found !== undefined) return found;
      this.#log.info('replica is behind; reading the primary');
    } catch (error) {
      this.#log.warn({ err: error }, 'replica read failed; reading the primary');
    }
    this.#pause();
    return undefined;
  }

  #pause(): void {
    this.#isSuspect = true;
    this.#pausedUntil = performance.now() + PAUSE_MS;
  }
}

/** Waits until a replica has replayed the log up to a place. A server that was promoted is no replica. */
async function catchesUp(tx: Transaction, lsn: string): Promise<boolean> {
  const deadline = performance.now() + CATCH_UP_MS;
  for (let wait = 1; ; wait *= 2) {
    const { rows } = await tx.execute<{ isThere: boolean | null }>(
      sql`select pg_is_in_recovery() and pg_last_wal_replay_lsn() >= ${lsn}::pg_lsn as "isThere"`,
    );
    if (rows[0]?.isThere === true) return true;
    if (performance.now() + wait > deadline) return false;
    await delay(wait);
  }
}
