import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import type { Logger } from '../runtime/log.ts';
import type { Requester } from '../runtime/quota.ts';
import { type Database, openPool, type Queryable, type Transaction } from './client.ts';
import { connectionTo } from './connection.ts';

/** Runs a query that only reads, where that is cheapest: on a replica, or else on `primary`. */
export type Read = <Rows>(query: (db: Queryable) => Promise<Rows>, primary?: Database) => Promise<Rows>;

const MAX_CONNECTIONS = 10;
/** How long the replica may take: to give a connection, to catch up, to answer. Then the primary is asked. */
const CONNECT_MS = 1_000;
const CATCH_UP_MS = 250;
const STATEMENT_MS = 2_000;
const SILENT_MS = 3_000;
/** Shorter than that, or connections that nobody uses would be taken for broken ones. */
const IDLE_MS = 2_500;
/** How long a replica that was behind, or failed, is left alone. */
const LEFT_ALONE_MS = 2_000;

/**
 * Reads from a replica of the database, but only what is as new as the database itself was when it was asked: the replica
 * must have come to where the primary's log stands now, or the primary is read. So whoever has written reads what it wrote,
 * through whichever process. A replica that is away or behind costs a moment now and then, and nothing else. Without `url`
 * all is read from `db`.
 *
 * The place asked for is that of the last record put into the log (`insert`), written or not: with `synchronous_commit` off
 * a commit is told before its record is written. The check and the query share a connection, as there may be several
 * replicas behind one address, and are statements that each see the newest (`read committed`). A server that was promoted is no replica.
 */
export function openReplica(
  db: Database,
  url: string | undefined,
  log: Logger,
  requesterOf?: () => Requester,
): { read: Read; close(): Promise<void> } {
  if (url === undefined) return { read: (query, primary = db) => query(primary), close: async () => undefined };
  const replica = openPool(
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
  /** Whether it was behind, or failed, when it was last asked. */
  let doubtful = false;
  let leftAloneUntil = 0;

  function leaveAlone(): void {
    doubtful = true;
    leftAloneUntil = performance.now() + LEFT_ALONE_MS;
  }

  async function catchesUp(tx: Transaction, place: string): Promise<boolean> {
    const deadline = performance.now() + CATCH_UP_MS;
    for (let wait = 1; ; wait *= 2) {
      const { rows } = await tx.execute<{ there: boolean | null }>(
        sql`select pg_is_in_recovery() and pg_last_wal_replay_lsn() >= ${place}::pg_lsn as there`,
      );
      if (rows[0]?.there === true) return true;
      if (performance.now() + wait > deadline) return false;
      await delay(wait);
    }
  }

  return {
    async read(query, primary = db) {
      if (doubtful) {
        if (performance.now() < leftAloneUntil) return query(primary);
        // One tries it, at whose cost the others hear whether it can be asked again.
        leaveAlone();
      }
      const { rows } = await db.execute<{ at: string }>(sql`select pg_current_wal_insert_lsn()::text as at`);
      try {
        const found = await replica.db.transaction(
          async (tx) => ((await catchesUp(tx, rows[0]?.at as string)) ? { rows: await query(tx) } : undefined),
          { isolationLevel: 'read committed', accessMode: 'read only' },
        );
        if (found !== undefined) {
          doubtful = false;
          return found.rows;
        }
        log.info('replica is behind; the primary is read');
      } catch (error) {
        log.warn({ err: error }, 'replica not read; the primary is');
      }
      leaveAlone();
      return query(primary);
    },
    close: () => replica.pool.end(),
  };
}
