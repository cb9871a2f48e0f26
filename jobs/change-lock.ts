import type { Transaction } from '../db/client.ts';
import { lockInTransaction, tryLockInTransaction } from '../db/locks.ts';
import { AppError } from '../runtime/errors.ts';

/**
 * Lets one client at a time cancel or retry this job, or the jobs of this upload, until the transaction ends. Throws
 * `conflict` at once when another client does: requests that wait for each other would hold every connection.
 */
export async function lockChange(tx: Transaction, id: string): Promise<void> {
  if (!(await tryLockInTransaction(tx, 'change', id)))
    throw conflict(`another change of ${id} is in progress: try again`);
}

/** Waits for a change in progress: a deletion must not fail because of one. */
export async function awaitChange(tx: Transaction, id: string): Promise<void> {
  await lockInTransaction(tx, 'change', id);
}

export function conflict(message: string): AppError {
  return new AppError('conflict', message, { status: 409 });
}
