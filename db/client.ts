import { setTimeout as delay } from 'node:timers/promises';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import type { Logger } from '../log.ts';
import { connectionTo } from './connection.ts';
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

/** Opens a pool and waits until Postgres answers. Throws what `whenReachable` throws. The owner calls `close()`. */
export async function openDatabase(url: string, { name, log, max = 10 }: { name: string; log: Logger; max?: number }) {
  const { db, pool } = openPool(
    {
      ...connectionTo(url, { name, silentMs: SILENT_MS }),
      max,
      statement_timeout: STATEMENT_MS,
      idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
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

/** A pool that outlives its connections, and calls `onLoss` for each that breaks while nobody uses it. */
export function openPool(config: pg.PoolConfig, onLoss: (error: Error) => void) {
  const pool = new pg.Pool({ ...config, Client: PreparedClient });
  pool.on('error', onLoss);
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
    } finally {
      client.release();
    }
  };
  return { db, pool };
}

/**
 * Codes of the network, and Postgres's classes 08 (connection), 53 (resources) and 57 (shutting down). A protocol
 * violation (08P01) and a statement timeout (57014) come again when the same statement does.
 */
const OUTAGE_CODES = /^(08(?!P01)|53|57(?!014)|ECONN|EHOST|ENET|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN)/;
/** The client library's own errors have no code. */
const OUTAGE_MESSAGES =
  /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection)/;

/** Whether a query failed because the database could not be reached: the same query may work later. */
export function isOutage(error: unknown): boolean {
  // drizzle wraps what Postgres or the client library said.
  const inner = (error as { cause?: unknown } | null)?.cause ?? error;
  const { code, message } = inner as { code?: string; message?: string };
  return OUTAGE_CODES.test(code ?? '') || OUTAGE_MESSAGES.test(message ?? '');
}
