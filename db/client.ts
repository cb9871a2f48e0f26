import { setTimeout as delay } from 'node:timers/promises';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import type { Logger } from '../log.ts';
import * as schema from './schema.ts';

/** The pool or a transaction: queries take either, so that each is written once. */
export type Database = NodePgDatabase<typeof schema> & { $client: pg.Pool };
export type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0];
export type Queryable = Database | Transaction;

/** How long a start waits for a Postgres that does not answer yet. */
const CONNECT_DEADLINE_MS = 60_000;

/**
 * Opens a pool and waits until Postgres answers. Throws what `whenReachable` throws. The owner calls `close()`.
 */
export async function openDatabase(url: string, { name, log, max = 10 }: { name: string; log: Logger; max?: number }) {
  const pool = new pg.Pool({
    connectionString: url,
    application_name: name,
    max,
    connectionTimeoutMillis: 10_000,
    statement_timeout: 60_000,
    idle_in_transaction_session_timeout: 60_000,
  });
  // An idle connection that breaks must not end the process: the next query opens another.
  pool.on('error', (error) => log.warn({ err: error }, 'idle database connection lost'));
  // Nor must one that breaks between two statements of a transaction: the second fails.
  pool.on('connect', (client) => client.on('error', () => setImmediate(giveBack, client)));
  try {
    await whenReachable(() => pool.query('select 1'));
  } catch (error) {
    await pool.end();
    throw error;
  }
  return { db: drizzle({ client: pool, schema }), pool, close: () => pool.end() };
}

/** A lost connection whose borrower did not give it back, as drizzle does not when its `begin` fails, takes a place in the pool for ever. */
function giveBack(client: pg.PoolClient): void {
  try {
    client.release(true);
    client.release = () => undefined;
  } catch {} // It was given back, or is idle.
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

/** Codes of the network, and Postgres's classes 08 (connection), 53 (resources) and 57 (shutting down, cancelled). */
const OUTAGE_CODES = /^(08|53|57|ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)/;
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
