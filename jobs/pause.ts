import { eq, isNotNull, sql } from 'drizzle-orm';
import type { Database, Queryable } from '../db/client.ts';
import { jobTypes } from '../db/schema.ts';
import { READY_CHANNEL } from './wake.ts';

/** No further job of the type starts; running jobs continue. Waits for claims that have begun. */
export async function pauseJobType(db: Database, type: string): Promise<void> {
  await db
    .insert(jobTypes)
    .values({ type, pausedAt: sql`now()` })
    .onConflictDoUpdate({ target: jobTypes.type, set: { pausedAt: sql`coalesce(${jobTypes.pausedAt}, now())` } });
}

export async function resumeJobType(db: Database, type: string): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.update(jobTypes).set({ pausedAt: null }).where(eq(jobTypes.type, type));
    await tx.execute(sql`select pg_notify(${READY_CHANNEL}, '')`);
  });
}

/** The paused types, with the time since when each is paused. */
export async function pausedJobTypes(db: Queryable): Promise<Map<string, Date>> {
  const rows = await db
    .select({ type: jobTypes.type, pausedAt: jobTypes.pausedAt })
    .from(jobTypes)
    .where(isNotNull(jobTypes.pausedAt));
  return new Map(rows.flatMap(({ type, pausedAt }) => (pausedAt === null ? [] : [[type, pausedAt]])));
}
