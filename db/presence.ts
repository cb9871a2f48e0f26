import pg from 'pg';
import type { Logger } from '../log.ts';
import { connectionTo } from './connection.ts';

/** The class of the advisory locks below; any number that nobody else uses. */
const LOCK_CLASS = 21_313;
const TIMEOUT_MS = 5_000;

export type Presence = ReturnType<typeof openPresence>;

/**
 * Which copy of the statuses each API process answers from, where all of them can read it: a shared advisory lock on the
 * copy's number (an int4). It vanishes with the session that holds it; a lost session is opened again at the next call.
 * All calls throw when Postgres cannot be reached. The owner calls `close()`.
 */
export function openPresence(url: string, log: Logger) {
  let session: Promise<pg.Client> | undefined;

  function open(): Promise<pg.Client> {
    const client = new pg.Client({
      ...connectionTo(url, { name: 'sheetmill-presence' }),
      connectionTimeoutMillis: TIMEOUT_MS,
      query_timeout: TIMEOUT_MS,
    });
    const opened = client.connect().then(() => client);
    const forget = () => {
      if (session === opened) session = undefined;
    };
    client.on('end', forget);
    client.on('error', (error) => {
      log.warn({ err: error }, 'presence lost');
      forget();
    });
    opened.catch(forget);
    session = opened;
    return opened;
  }

  async function query<Row extends pg.QueryResultRow>(text: string, values: number[]): Promise<Row[]> {
    const opened = session ?? open();
    const client = await opened;
    try {
      return (await client.query<Row>(text, values)).rows;
    } catch (error) {
      // Whatever it held must not outlive what we know of it.
      if (session === opened) session = undefined;
      void client.end().catch(() => undefined);
      throw error;
    }
  }

  /** A session that has just ended is no reason to fail: all of these may be asked again in a new one. */
  function queryAgain<Row extends pg.QueryResultRow>(text: string, values: number[]): Promise<Row[]> {
    return query<Row>(text, values).catch(() => query<Row>(text, values));
  }

  return {
    async announce(copy: number): Promise<void> {
      await queryAgain('select pg_advisory_lock_shared($1, $2)', [LOCK_CLASS, copy]);
    },
    async withdraw(copy: number): Promise<void> {
      await queryAgain('select pg_advisory_unlock_shared($1, $2)', [LOCK_CLASS, copy]);
    },
    /** The copies that any process has announced, and which of them are our own. */
    async announced(): Promise<{ all: Set<number>; own: Set<number> }> {
      const locks = await queryAgain<{ copy: number; own: boolean }>(
        `select (objid::bigint - case when objid::bigint > 2147483647 then 4294967296 else 0 end)::int as copy,
           pid = pg_backend_pid() as own
         from pg_locks where locktype = 'advisory' and classid = $1 and objsubid = 2 and granted
           and database = (select oid from pg_database where datname = current_database())`,
        [LOCK_CLASS],
      );
      return {
        all: new Set(locks.map(({ copy }) => copy)),
        own: new Set(locks.filter(({ own }) => own).map(({ copy }) => copy)),
      };
    },
    async close(): Promise<void> {
      const client = await session?.catch(() => undefined);
      await client?.end().catch(() => undefined);
    },
  };
}
