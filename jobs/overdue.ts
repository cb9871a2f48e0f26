import { sql } from 'drizzle-orm';

/**
 * How much longer than its timeout an attempt may take before the leader ends it. Its converter ends it in time unless it
 * hangs; input and pages of an attempt cross the network outside its timeout, and its end waits its turn to be settled.
 */
const GRACE_SECONDS = 60;

/**
 * Of a row of `jobs` joined with its attempt: it runs although its time has passed. A job that waits for its children does
 * not run itself, and an attempt that waited for the store gets its whole time again.
 */
export const isOverdue = sql`jobs.status = 'running' and jobs.pending_children = 0
  and greatest(job_attempts.started_at, job_attempts.waited_at)
    < now() - make_interval(secs => jobs.timeout_seconds + ${sql.raw(String(GRACE_SECONDS))})`;
