import { setTimeout as delay } from 'node:timers/promises';
import type { Database, Transaction } from '../db/client.ts';
import { postgresCode } from '../db/postgres-errors.ts';

/** Postgres's codes for a deadlock and for a serialisation failure: the transaction may be tried again as it was. */
const REPEATABLE = new Set(['40P01', '40001']);
const MAX_TRIES = 10;

/** Thrown in a transition that has found the job changed since it looked, so that it starts again. */
export class Moved extends Error {
  readonly code = '40001';
}

/**
 * Runs one change of status as a transaction. All of them lock in one order: job, pg-boss job, dependants, pages,
 * original, parent, upload last. A deadlock that still comes to pass is repeated, so `change` must have no effect
 * outside `tx`.
 */
export function transition<T>(db: Database, change: (tx: Transaction) => Promise<T>): Promise<T> {
  return repeating(() => db.transaction(change));
}

/** Runs a transaction, or a statement that is one, again after a deadlock. */
export async function repeating<T>(run: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await run();
    } catch (error) {
      if (!isRepeatable(error) || tries === MAX_TRIES) throw error;
      await delay(tries * 20 * Math.random());
    }
  }
}

/** True if a transaction that failed with this error may succeed when it is repeated. */
export function isRepeatable(error: unknown): boolean {
  return REPEATABLE.has(postgresCode(error));
}
