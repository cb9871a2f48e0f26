import { sql } from 'drizzle-orm';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import type { Logger } from '../runtime/log.ts';
import type { Requester } from '../runtime/quota.ts';
import { retry } from '../runtime/retry.ts';
import { connectionTo } from './connection.ts';
import { FairPool } from './fair-pool.ts';
import { isOutage, isRefusedWrite } from './postgres-errors.ts';
import { PreparedClient } from './prepared-client.ts';
import * as schema from './schema.ts';

/** The pool, or a transaction in `Queryable`: queries take either, so that each is written once. */
export type Database = NodePgDatabase<typeof schema> & { $client: pg.Pool };
export type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0];
export type Queryable = Database | Transaction;

/** A start waits this long for a Postgres that does not answer yet. */
const CONNECT_DEADLINE_MS = 60_000;
const CONNECT_BACKOFF = { initialMs: 50, maxMs: 2_000 };
const STATEMENT_MS = 60_000;
const SILENT_MS = 75_000;
/** Frees the locks of a transaction whose host was cut off. */
const IDLE_IN_TRANSACTION_MS = 20_000;

interface DatabaseOptions {
  name: string;
  log: Logger;
  max?: number;
  /** The timeout of a statement. */
  statementMs?: number;
  /** The timeout of a wait for a lock. The default is the timeout of the statement. */
  lockMs?: number;
  /** The requester of the current query: requesters share the connections fairly. */
  requesterOf?: () => Requester;
}

export interface OpenPool {
  db: Database;
  pool: pg.Pool;
  close(): Promise<void>;
}

/** Opens a pool and waits until Postgres answers. Throws what `whenReachable` throws. The owner calls `close()`. */
export async function openDatabase(
  url: string,
  { name, log, max = 10, statementMs = STATEMENT_MS, lockMs = 0, requesterOf }: DatabaseOptions,
): Promise<OpenPool> {
  const database = openPool(
    {
      ...connectionTo(url, { name, silentMs: SILENT_MS }),
      max,
      statement_timeout: statementMs,
      lock_timeout: lockMs,
      idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
      requesterOf,
    },
    (error) => log.warn({ err: error }, 'idle database connection lost'),
  );
  try {
    await whenReachable(() => database.pool.query('select 1'));
  } catch (error) {
    await database.close();
    throw error;
  }
  return database;
}

/**
 * Retries `work` until Postgres can be reached. Throws at once an error that is no outage, such as a wrong password, and
 * gives up after a minute.
 */
export function whenReachable<Result>(work: () => Promise<Result>): Promise<Result> {
  const deadline = Date.now() + CONNECT_DEADLINE_MS;
  return retry(work, CONNECT_BACKOFF, (error, backoffMs) => {
    if (!isOutage(error)) throw error;
    if (Date.now() + backoffMs > deadline) throw new Error('Postgres did not answer for a minute', { cause: error });
    return backoffMs;
  });
}

/**
 * A pool that survives its connections, and calls `onLoss` for each that breaks while it is idle. When a server turns out
 * to be read-only, the pool drops every connection to it: the address may lead to the new primary by now.
 */
export function openPool(
  { requesterOf, ...config }: pg.PoolConfig & { requesterOf?: (() => Requester) | undefined },
  onLoss: (error: Error) => void,
): OpenPool {
  const options = { ...config, Client: PreparedClient };
  const pool = requesterOf === undefined ? new pg.Pool(options) : new FairPool(options, requesterOf);
  pool.on('error', onLoss);
  const dropDemoted = trackDemotions(pool);
  // A connection in use that breaks fails its query; without a listener its error would also end the process.
  pool.on('connect', (client) => client.on('error', () => undefined));
  const db: Database = drizzle({ client: pool, schema });
  const databases = new WeakMap<pg.PoolClient, NodePgDatabase<typeof schema>>();
  // drizzle's own never returns a connection that breaks at BEGIN, so the pool would lose it.
  db.transaction = async (work, config) => {
    const client = await pool.connect();
    try {
      const onClient = databases.get(client) ?? drizzle({ client, schema });
      databases.set(client, onClient);
      return await onClient.transaction(work, config);
    } catch (error) {
      if (isRefusedWrite(error)) dropDemoted();
      throw error;
    } finally {
      client.release();
    }
  };
  return { db, pool, close: () => pool.end() };
}

/** Returns a function that drops all open connections: idle ones at once, those in use when they are returned. */
function trackDemotions(pool: pg.Pool): () => void {
  const open = new Set<pg.PoolClient>();
  const demoted = new WeakSet<pg.PoolClient>();
  function dropDemoted(): void {
    for (const client of open) demoted.add(client);
    for (let idle = pool.idleCount; idle > 0 && !pool.ending; idle--)
      pool.connect((_error, client) => client?.release(true));
  }
  pool.on('connect', (client) => open.add(client));
  pool.on('remove', (client) => open.delete(client));
  pool.on('release', (error, client) => {
    if (isRefusedWrite(error) && !demoted.has(client)) dropDemoted();
    // The pool removes a client that ends.
    if (demoted.has(client)) void client.end();
  });
  return dropDemoted;
}

/** True if the server refuses writes, as during a failover. */
export async function isReadOnly(db: Queryable): Promise<boolean> {
  const { rows } = await db.execute<{ isReadOnly: boolean }>(
    sql`select pg_is_in_recovery() or current_setting('transaction_read_only')::bool as "isReadOnly"`,
  );
  return rows[0]?.isReadOnly === true;
}
