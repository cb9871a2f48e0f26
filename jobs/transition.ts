import { setTimeout as delay } from 'node:timers/promises';
import type { Database, Transaction } from '../db/client.ts';
import { postgresCode } from '../db/postgres-errors.ts';

const DEADLOCK = '40P01';
const SERIALIZATION_FAILURE = '40001';
const UNIQUE_VIOLATION = '23505';
const MAX_TRIES = 10;
/** Spreads transactions that met in a deadlock, so that they do not meet again. */
const MAX_DELAY_MS_PER_TRY = 20;

/** Thrown in a transition that finds a row changed since it was read: the transition runs again. */
export class RetryTransaction extends Error {
  readonly code = SERIALIZATION_FAILURE;
}

/**
 * Runs one change of status as a transaction. All transitions lock in one order: job, pg-boss job, dependants, rows of the
 * domain, parent, and last the row of the domain that several parents share. Deadlocks are retried, so `change` must have
 * no effect outside `tx`.
 */
export function transition<T>(db: Database, change: (tx: Transaction) => Promise<T>): Promise<T> {
  return retryDeadlocks(() => db.transaction(change));
}

/** Retries a transaction, or a single statement, after a deadlock. */
export async function retryDeadlocks<T>(run: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await run();
    } catch (error) {
      if (!isRepeatable(error) || tries === MAX_TRIES) throw error;
      await delay(tries * MAX_DELAY_MS_PER_TRY * Math.random());
    }
  }
}

/** True if a transaction that failed with this error may succeed when it is retried. */
export function isRepeatable(error: unknown): boolean {
  return [DEADLOCK, SERIALIZATION_FAILURE].includes(postgresCode(error));
}

export function isUniqueViolation(error: unknown): boolean {
  return postgresCode(error) === UNIQUE_VIOLATION;
}
