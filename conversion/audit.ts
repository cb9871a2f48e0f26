import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { audit, type Finding, type Invariants, JOB_INVARIANTS } from '../jobs/audit.ts';

const UPLOAD_INVARIANTS: Invariants = {
  'an upload counts its completed pages': sql`
    select id::text from uploads where pages_done <> (
      select count(*) from pages where upload_id = uploads.id and pages.status = 'completed')`,
  'an upload ends with its jobs': sql`
    select id::text from uploads where (finished_at is null) <> exists (
      select 1 from jobs where upload_id = uploads.id and jobs.finished_at is null)`,
};

/** Checks the invariants of jobs and uploads on a live database. Returns those that are broken. */
export function auditAll(db: Database): Promise<Finding[]> {
  return audit(db, { ...JOB_INVARIANTS, ...UPLOAD_INVARIANTS });
}
