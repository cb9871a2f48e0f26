import { sql } from 'drizzle-orm';

/**
 * The leader ends an attempt this long after its timeout, because its converter normally does so: transfers from and to the
 * store do not count against the timeout, and settlements are batched.
 */
const GRACE_SECONDS = 60;

/**
 * The condition, on `jobs` joined with `job_attempts`, that an attempt has exceeded its timeout. A job that waits for its
 * children does not count, and a wait for the store restarts the timeout.
 */
export const isOverdue = sql`jobs.status = 'running' and jobs.pending_children = 0
  and greatest(job_attempts.started_at, job_attempts.waited_at)
    < now() - make_interval(secs => jobs.timeout_seconds + ${sql.raw(String(GRACE_SECONDS))})`;
