import { sql } from 'drizzle-orm';

/**
 * The groups of ready jobs, as a recursive query named `groups`: jobs of a group have the same priority, owner (empty for
 * none), type and shape, and are all throttled or all not. Each group costs one probe of the index `jobs_ready`, however many jobs are in it.
 */
export const readyGroups = sql`
  with recursive groups as (
    (select throttled, priority, coalesce(owner, '') as owner, type, cpu_units, memory_mb from jobs where status = 'ready'
      order by jobs.throttled, jobs.priority, coalesce(jobs.owner, ''), jobs.type, jobs.cpu_units, jobs.memory_mb limit 1)
    union all
    select next.throttled, next.priority, next.owner, next.type, next.cpu_units, next.memory_mb from groups, lateral (
      select throttled, priority, coalesce(owner, '') as owner, type, cpu_units, memory_mb from jobs
      where status = 'ready' and (jobs.throttled, jobs.priority, coalesce(jobs.owner, ''), jobs.type, jobs.cpu_units, jobs.memory_mb)
        > (groups.throttled, groups.priority, groups.owner, groups.type, groups.cpu_units, groups.memory_mb)
      order by jobs.throttled, jobs.priority, coalesce(jobs.owner, ''), jobs.type, jobs.cpu_units, jobs.memory_mb limit 1) next
  )`;

/** That a row of `jobs` is a ready job of the group. */
export const inGroup = sql`jobs.status = 'ready' and jobs.throttled = groups.throttled and jobs.priority = groups.priority
  and coalesce(jobs.owner, '') = groups.owner and jobs.type = groups.type and jobs.cpu_units = groups.cpu_units and jobs.memory_mb = groups.memory_mb`;
