import { sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { AppError } from '../runtime/errors.ts';

/** First half of the advisory locks; the second half is a hash of the id. */
const CHANGE_LOCKS = 7_311;

/**
 * Lets one client at a time cancel or retry this job, or the jobs of this upload, until the transaction ends. Throws
 * `conflict` at once when another client does: requests that wait for each other would hold every connection.
 */
export async function lockChange(tx: Transaction, id: string): Promise<void> {
  const { rows } = await tx.execute<{ got: boolean }>(
    sql`select pg_try_advisory_xact_lock(${CHANGE_LOCKS}, hashtext(${id})) as got`,
  );
  if (!rows[0]?.got) throw conflict(`another change of ${id} is in progress: try again`);
}

/** Waits for a change in progress: a deletion must not fail because of one. */
export async function awaitChange(tx: Transaction, id: string): Promise<void> {
  await tx.execute(sql`select pg_advisory_xact_lock(${CHANGE_LOCKS}, hashtext(${id}))`);
}

export function conflict(message: string): AppError {
  return new AppError('conflict', message, { status: 409 });
}
