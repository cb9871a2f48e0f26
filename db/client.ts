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

/** The pool or a transaction: queries take either, so that each is written once. */
export type Database = NodePgDatabase<typeof schema> & { $client: pg.Pool };
export type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0];
export type Queryable = Database | Transaction;

/** How long a start waits for a Postgres that does not answer yet. */
const CONNECT_DEADLINE_MS = 60_000;
const CONNECT_BACKOFF = { initialMs: 50, maxMs: 2_000 };
const STATEMENT_MS = 60_000;
const SILENT_MS = 75_000;
/** A transaction of a host that was cut off in the middle of it holds up others no longer. */
const IDLE_IN_TRANSACTION_MS = 20_000;

interface DatabaseOptions {
  name: string;
  log: Logger;
  max?: number;
  /** How long a statement may take. */
  statementMs?: number;
  /** How long a statement may wait for a lock: as long as it may take unless this is given. */
  lockMs?: number;
  /** Says for whom a query is made now: those for whom there are many share the connections fairly. */
  requesterOf?: () => Requester;
}

/** Opens a pool and waits until Postgres answers. Throws what `whenReachable` throws. The owner calls `close()`. */
export async function openDatabase(
  url: string,
  { name, log, max = 10, statementMs = STATEMENT_MS, lockMs = 0, requesterOf }: DatabaseOptions,
) {
  const { db, pool } = openPool(
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
    await whenReachable(() => pool.query('select 1'));
  } catch (error) {
    await pool.end();
    throw error;
  }
  return { db, pool, close: () => pool.end() };
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
 * A pool that outlives its connections, and calls `onLoss` for each that breaks while nobody uses it. When a server turns
 * out to be read-only, the pool drops every connection to it: the address may lead to the new primary by now.
 */
export function openPool(
  { requesterOf, ...config }: pg.PoolConfig & { requesterOf?: (() => Requester) | undefined },
  onLoss: (error: Error) => void,
) {
  const options = { ...config, Client: PreparedClient };
  const pool = requesterOf === undefined ? new pg.Pool(options) : new FairPool(options, requesterOf);
  pool.on('error', onLoss);
  const dropDemoted = trackDemotions(pool);
  // One that breaks while it is used fails its query; an error that nobody hears would end the process besides.
  pool.on('connect', (client) => client.on('error', () => undefined));
  const db: Database = drizzle({ client: pool, schema });
  const databases = new WeakMap<pg.PoolClient, NodePgDatabase<typeof schema>>();
  // drizzle's own never gives back a connection that breaks at BEGIN, and the pool would miss it for ever.
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
  return { db, pool };
}

/** Gives a function that drops all connections that are open now: idle ones at once, those in use when they are given back. */
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
    // The pool does not keep a client that is ending.
    if (demoted.has(client)) void client.end();
  });
  return dropDemoted;
}

/** True if the server takes no writes now, as during a failover. */
export async function isReadOnly(db: Queryable): Promise<boolean> {
  const { rows } = await db.execute<{ read_only: boolean }>(
    sql`select pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only`,
  );
  return rows[0]?.read_only === true;
}
