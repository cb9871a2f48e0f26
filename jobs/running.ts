import { and, eq, isNotNull } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { jobs } from '../db/schema.ts';

/** NOTIFY channels, without content: they only wake, and a slow poll backs them up. Triggers notify (see migrations). */
export const READY_CHANNEL = 'sheetmill_ready';
export const CANCELLED_CHANNEL = 'sheetmill_cancelled';

/** The queue ids of the jobs that a converter runs, as the database knows it. */
export async function ownedQueueIds(db: Database, converterId: string): Promise<Set<string>> {
  const rows = await db
    .select({ queueId: jobs.queueId })
    .from(jobs)
    .where(and(eq(jobs.converterId, converterId), eq(jobs.status, 'running'), isNotNull(jobs.queueId)));
  return new Set(rows.map(({ queueId }) => queueId as string));
}
