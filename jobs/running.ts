import { and, eq, isNotNull, type SQL } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { jobs } from '../db/schema.ts';
import type { AttemptKey } from './claim.ts';

/** NOTIFY channels, without content: they only wake, and a slow poll backs them up. Triggers notify (see migrations). */
export const READY_CHANNEL = 'sheetmill_ready';
export const CANCELLED_CHANNEL = 'sheetmill_cancelled';

/** That a row of `jobs` is run by this attempt, which then may write what comes of it. */
export function ownedBy({ id, attempt }: Pick<AttemptKey, 'id' | 'attempt'>): SQL | undefined {
  return and(eq(jobs.id, id), eq(jobs.attempt, attempt), eq(jobs.status, 'running'), isNotNull(jobs.converterId));
}

/** Names an attempt among those of all jobs. */
export function keyOf({ id, attempt }: Pick<AttemptKey, 'id' | 'attempt'>): string {
  return `${id}/${attempt}`;
}

/** The keys of the attempts that a converter runs, as the database knows them. */
export async function ownedAttempts(db: Database, converterId: string): Promise<Set<string>> {
  const rows = await db
    .select({ id: jobs.id, attempt: jobs.attempt })
    .from(jobs)
    .where(and(eq(jobs.converterId, converterId), eq(jobs.status, 'running')));
  return new Set(rows.map(keyOf));
}
