import { type SQL, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { waits } from './dependants.ts';
import { isOverdue } from './overdue.ts';

/** Ids in each finding. */
const MAX_EXAMPLES = 5;

/** Each query returns the ids of the rows that break the invariant. */
export type Invariants = Record<string, SQL>;

export const JOB_INVARIANTS: Invariants = {
  'a ready job has its pg-boss job': sql`
    select id from jobs where status = 'ready' and not exists (
      select 1 from pgboss.job queued where queued.id = jobs.queue_id and queued.name = 'jobs' and queued.state = 'created')`,
  'a pg-boss job stands for one ready job': sql`
    select queued.id::text from pgboss.job queued where name = 'jobs' and not exists (
      select 1 from jobs where jobs.queue_id = queued.id and status = 'ready')`,
  'a blocked job counts its dependencies without an outcome': sql`
    select id from jobs where status = 'blocked' and pending_dependencies <> (
      select count(*) from job_dependencies where job_id = jobs.id and outcome is null)`,
  'a job that waits knows the outcomes of its prerequisites, or will be placed again': sql`
    select jobs.id from jobs join job_dependencies edge on edge.job_id = jobs.id
    left join jobs prerequisite on prerequisite.id = edge.depends_on
    where ${waits} and not exists (select 1 from pending_outcomes where job_id = edge.depends_on)
      and case when prerequisite.id is null then edge.outcome is null
        else edge.outcome is distinct from case when prerequisite.finished_at is not null then prerequisite.status end end`,
  'no blocked job waits for a dependency that has failed': sql`
    select id from jobs where status = 'blocked' and run_on = 'success' and exists (
      select 1 from job_dependencies where job_id = jobs.id and outcome <> 'completed')`,
  'no job runs before its dependencies let it': sql`
    select id from jobs where status in ('scheduled', 'ready', 'running', 'retrying') and exists (
      select 1 from job_dependencies where job_id = jobs.id having bool_or(outcome is null)
        or jobs.run_on = 'success' and bool_or(outcome <> 'completed')
        or jobs.run_on = 'failure' and bool_and(outcome = 'completed'))`,
  'a parent counts the children that have not ended': sql`
    select id from jobs where status = 'running' and pending_children > 0 and pending_children <> (
      select count(*) from jobs child where child.parent_id = jobs.id and child.finished_at is null)`,
  'no child outlives its parent': sql`
    select child.id from jobs child join jobs parent on parent.id = child.parent_id
    where child.finished_at is null and parent.finished_at is not null`,
  'a running job has one running attempt, its last': sql`
    select id from jobs where status = 'running' and pending_children = 0 and not exists (
      select 1 from job_attempts where job_id = jobs.id and attempt = jobs.attempt and status = 'running')`,
  'a running attempt belongs to a running job': sql`
    select job_id || ' attempt ' || job_attempts.attempt as id from job_attempts join jobs on jobs.id = job_id
    where job_attempts.status = 'running' and (jobs.status <> 'running' or jobs.attempt <> job_attempts.attempt)`,
  'no job runs past its timeout': sql`
    select jobs.id from jobs join job_attempts on job_id = jobs.id and job_attempts.attempt = jobs.attempt where ${isOverdue}`,
  'no job completes twice': sql`
    select job_id as id from job_attempts join jobs on jobs.id = job_id where job_attempts.status = 'completed'
    group by job_id having count(*) > 1`,
  'no converter runs more than its capacity': sql`
    select converters.id::text from converters join jobs on jobs.converter_id = converters.id and jobs.status = 'running'
    where converters.status = 'live' group by converters.id
    having sum(jobs.cpu_units) > converters.cpu_units or sum(jobs.memory_mb) > converters.memory_mb`,
  'no key runs more jobs than its type allows': sql`
    select jobs.type || ' ' || concurrency_key as id from jobs join job_types using (type)
      join job_attempts on job_id = jobs.id and job_attempts.attempt = jobs.attempt
    where jobs.status = 'running' and concurrency_key is not null and job_attempts.started_at > limited_at
    group by jobs.type, concurrency_key, per_key having count(*) > per_key`,
  'no type runs more jobs than it allows': sql`
    select jobs.type as id from jobs join job_types using (type)
      join job_attempts on job_id = jobs.id and job_attempts.attempt = jobs.attempt
    where jobs.status = 'running' and job_attempts.started_at > limited_at
    group by jobs.type, per_type having count(*) > per_type`,
  'a throttled job waits for a key that has no room': sql`
    select id from jobs left join job_types using (type) where throttled and (per_key is null or per_key > (
      select count(*) from jobs active where active.type = jobs.type and active.concurrency_key = jobs.concurrency_key
        and not active.throttled and active.status in ('ready', 'running')))`,
  'a pending webhook is due within 11 hours': sql`
    select id::text from webhooks where status = 'pending' and greatest(due_at, locked_until) > now() + interval '11 hours'`,
};

export interface Finding {
  invariant: string;
  count: number;
  examples: string[];
}

/** Checks invariants on a live database, in one snapshot. Returns those that are broken. */
export async function audit(db: Database, invariants: Invariants): Promise<Finding[]> {
  return db.transaction(
    async (tx) => {
      const findings: Finding[] = [];
      for (const [invariant, query] of Object.entries(invariants)) {
        const { rows } = await tx.execute<{ id: string; count: number }>(sql`
          select id, (count(*) over ())::int as count from (${query}) broken limit ${MAX_EXAMPLES}`);
        if (rows.length > 0)
          findings.push({ invariant, count: rows[0]?.count ?? 0, examples: rows.map(({ id }) => id) });
      }
      return findings;
    },
    { isolationLevel: 'repeatable read', accessMode: 'read only' },
  );
}
