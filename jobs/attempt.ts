import { and, eq, isNotNull, type SQL, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { jobs } from '../db/schema.ts';
import type { AttemptKey } from './claim.ts';

type AttemptId = Pick<AttemptKey, 'id' | 'attempt'>;

/** The columns of a running job that identify its attempt. */
export const attemptKey = { id: jobs.id, attempt: jobs.attempt, cpuUnits: jobs.cpuUnits, memoryMb: jobs.memoryMb };

/** A string that identifies an attempt. */
export function attemptName({ id, attempt }: AttemptId): string {
  return `${attempt} ${id}`;
}

/** The condition that the attempt still owns its row of `jobs`, which every write of an attempt needs. */
export function ownedBy({ id, attempt }: AttemptId): SQL | undefined {
  return and(eq(jobs.id, id), eq(jobs.attempt, attempt), eq(jobs.status, 'running'), isNotNull(jobs.converterId));
}

/** The attempts that a converter runs, according to the database. */
export async function ownedAttempts(db: Database, converterId: string): Promise<AttemptKey[]> {
  return db
    .select(attemptKey)
    .from(jobs)
    .where(and(eq(jobs.converterId, converterId), eq(jobs.status, 'running')));
}

/** Records that attempts wait for the store: the timeout of an attempt begins again after such a wait. */
export async function recordWaits(db: Database, waiting: AttemptId[]): Promise<void> {
  if (waiting.length === 0) return;
  const rows = waiting.map(({ id, attempt }) => ({ job_id: id, attempt }));
  await db.execute(sql`
    update job_attempts set waited_at = now()
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as x(job_id text, attempt int)
    where job_attempts.job_id = x.job_id and job_attempts.attempt = x.attempt and status = 'running'`);
}
