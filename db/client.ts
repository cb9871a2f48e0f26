import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { SemaphoreTimeout } from '../runtime/fair-semaphore.ts';
import type { Logger } from '../runtime/log.ts';
import type { Requester } from '../runtime/quota.ts';
import { connectionTo } from './connection.ts';
import { FairPool } from './fair-pool.ts';
import { PreparedClient } from './prepared-client.ts';
import * as schema from './schema.ts';

/** The pool or a transaction: queries take either, so that each is written once. */
export type Database = NodePgDatabase<typeof schema> & { $client: pg.Pool };
export type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0];
export type Queryable = Database | Transaction;

/** How long a start waits for a Postgres that does not answer yet. */
const CONNECT_DEADLINE_MS = 60_000;
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
 * Does `work` again until Postgres can be reached for it. Throws at once what is no outage, such as a wrong password, and
 * gives up once a minute has passed.
 */
export async function whenReachable<Result>(work: () => Promise<Result>): Promise<Result> {
  const deadline = Date.now() + CONNECT_DEADLINE_MS;
  for (let wait = 50; ; wait = Math.min(wait * 2, 2_000)) {
    try {
      return await work();
    } catch (error) {
      if (!isOutage(error)) throw error;
      if (Date.now() + wait > deadline) throw new Error('Postgres has not answered for a minute', { cause: error });
      await delay(wait);
    }
  }
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

/** The SQLSTATE of a write that reached a server which takes none: a standby, or a primary that was demoted. */
const READ_ONLY = '25006';

/** The SQLSTATE of a statement that waited for a lock for too long. */
const LOCK_NOT_AVAILABLE = '55P03';
/** The SQLSTATE of a statement that took too long. */
const QUERY_CANCELED = '57014';

/** True if a statement waited for a lock of another transaction for too long. */
export function isLockTimeout(error: unknown): boolean {
  return codeOf(error) === LOCK_NOT_AVAILABLE;
}

/** True if a statement took too long. */
export function isStatementTimeout(error: unknown): boolean {
  return codeOf(error) === QUERY_CANCELED;
}

function isRefusedWrite(error: unknown): boolean {
  return codeOf(error) === READ_ONLY;
}

/** True if the server takes no writes now, as during a failover. */
export async function isReadOnly(db: Queryable): Promise<boolean> {
  const { rows } = await db.execute<{ read_only: boolean }>(
    sql`select pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only`,
  );
  return rows[0]?.read_only === true;
}

/**
 * Codes of the network, and Postgres's classes 08 (connection), 53 (resources) and 57 (shutting down), and its refusal of
 * writes during a failover. A statement that took too long (57014) or that Postgres cannot read (08P01) would fail again.
 */
const OUTAGE_CODES = /^(08(?!P01)|53|57(?!014)|25006|ECONN|EHOST|ENET|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN)/;
/** The client library's own errors have no code. */
const OUTAGE_MESSAGES =
  /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection)/;

/** Whether a query failed because the database could not be reached: the same query may work later. */
export function isOutage(error: unknown): boolean {
  const { message } = innermost(error);
  return OUTAGE_CODES.test(codeOf(error)) || OUTAGE_MESSAGES.test(message ?? '') || isBusy(error);
}

/** True if no connection was free in time. */
function isBusy(error: unknown): boolean {
  return innermost(error) instanceof SemaphoreTimeout;
}

/** The error of Postgres or of the client library, which drizzle wraps. */
function innermost(error: unknown): { code?: unknown; message?: string } {
  const inner = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return typeof inner === 'object' && inner !== null ? inner : {};
}

function codeOf(error: unknown): string {
  return String(innermost(error).code ?? '');
}
