import { and, eq, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { jobAttempts, jobs } from '../db/schema.ts';
import { attemptKey } from './attempt.ts';
import type { AttemptKey } from './claim.ts';
import { attemptStatus, type Settlement } from './settle.ts';
import { formatWakeUp, type WakeUp } from './wake.ts';

/** NOTIFY channels: they only wake, and a slow poll backs them up. Triggers notify (see migrations). */
export const READY_CHANNEL = 'sheetmill_ready';
export const CANCELLED_CHANNEL = 'sheetmill_cancelled';

/** Sends wake-ups on to other converters. */
export async function sendWakeUps(db: Database, wakeUps: WakeUp[]): Promise<void> {
  const payloads = wakeUps.map(formatWakeUp);
  await db.execute(
    sql`select pg_notify(${READY_CHANNEL}, payload) from unnest(${sql.param(payloads)}::text[]) payload`,
  );
}

/** The attempts that a converter runs, as the database knows it. */
export async function ownedAttempts(db: Database, converterId: string): Promise<AttemptKey[]> {
  return db
    .select(attemptKey)
    .from(jobs)
    .where(and(eq(jobs.converterId, converterId), eq(jobs.status, 'running')));
}

/** Notes attempts that wait for the store just now: the time of their wait does not count against their timeout. */
export async function noteWaits(db: Database, waiting: Pick<AttemptKey, 'id' | 'attempt'>[]): Promise<void> {
  if (waiting.length === 0) return;
  const rows = waiting.map(({ id, attempt }) => ({ job_id: id, attempt }));
  await db.execute(sql`
    update job_attempts set waited_at = now()
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as x(job_id text, attempt int)
    where job_attempts.job_id = x.job_id and job_attempts.attempt = x.attempt and status = 'running'`);
}

/**
 * True if an attempt ended with just this outcome: then a settlement whose answer was lost has taken place. Others end
 * attempts in other ways only, as cancelled, lost or overdue.
 */
export async function isSettledAs(db: Database, { attempt, outcome }: Settlement): Promise<boolean> {
  const [row] = await db
    .select({ status: jobAttempts.status, error: jobAttempts.error })
    .from(jobAttempts)
    .where(and(eq(jobAttempts.jobId, attempt.id), eq(jobAttempts.attempt, attempt.attempt)));
  const code = 'error' in outcome ? outcome.error?.code : undefined;
  return row?.status === attemptStatus(outcome) && row.error?.code === code;
}
