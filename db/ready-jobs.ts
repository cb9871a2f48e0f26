import { sql } from 'drizzle-orm';

/**
 * A recursive query, named `groups`, of the groups of ready jobs. Jobs of a group share priority, owner (empty for none),
 * type, shape and throttling. Each group costs one probe of the index `jobs_ready`, however many jobs it has.
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

/** True if a row of `jobs` is a ready job of the group. */
export const inGroup = sql`jobs.status = 'ready' and jobs.throttled = groups.throttled and jobs.priority = groups.priority
  and coalesce(jobs.owner, '') = groups.owner and jobs.type = groups.type and jobs.cpu_units = groups.cpu_units and jobs.memory_mb = groups.memory_mb`;
