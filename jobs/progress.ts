import type { Database } from '../db/client.ts';
import { jobs, type Progress } from '../db/schema.ts';
import { ownedBy } from './attempt.ts';
import type { AttemptKey } from './claim.ts';

/** Records the progress of an attempt, unless it no longer owns its job. */
export async function recordProgress(db: Database, attempt: AttemptKey, progress: Progress): Promise<void> {
  await db.update(jobs).set({ progress }).where(ownedBy(attempt));
}
