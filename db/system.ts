import { and, desc, eq, gt, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { inGroup, readyGroups } from './ready-jobs.ts';
import { converters, hasDied, jobAttempts, jobs, PRIORITIES } from './schema.ts';

/** Every live converter with what its running jobs have reserved. */
export async function listConverters(db: Queryable) {
  const reserved = db
    .select({
      cpuUnits: sql<number>`coalesce(sum(${jobs.cpuUnits}), 0)::int`.as('reserved_cpu_units'),
      memoryMb: sql<number>`coalesce(sum(${jobs.memoryMb}), 0)::int`.as('reserved_memory_mb'),
      running: sql<number>`count(*)::int`.as('running'),
    })
    .from(jobs)
    .where(and(eq(jobs.status, 'running'), eq(jobs.converterId, converters.id)))
    .as('reserved');
  return db
    .select({
      id: converters.id,
      name: converters.name,
      cpuUnits: converters.cpuUnits,
      memoryMb: converters.memoryMb,
      reservedCpuUnits: reserved.cpuUnits,
      reservedMemoryMb: reserved.memoryMb,
      running: reserved.running,
      isolation: converters.isolation,
      heartbeatAt: converters.heartbeatAt,
      startedAt: converters.startedAt,
    })
    .from(converters)
    .crossJoinLateral(reserved)
    .where(eq(converters.status, 'live'))
    .orderBy(desc(converters.startedAt));
}

/** For each shape that has ready jobs: how many (up to `max`), and the time since the oldest of them arrived. Reads the index alone. */
export async function queueDepths(db: Queryable, max: number) {
  const { rows } = await db.execute<{ cpu_units: number; memory_mb: number; depth: number; age: number }>(sql`
    ${readyGroups}
    select cpu_units, memory_mb, least(${max}, sum(depth))::int as depth,
      extract(epoch from now() - min(oldest))::float as age
    from groups, lateral (
      select count(*) as depth, min(arrived_at) as oldest from (
        select arrived_at from jobs where ${inGroup} order by arrived_at limit ${max}) first) counted
    group by cpu_units, memory_mb order by cpu_units, memory_mb`);
  return rows.map((row) => ({
    cpuUnits: row.cpu_units,
    memoryMb: row.memory_mb,
    depth: row.depth,
    oldestAgeSeconds: row.age,
  }));
}

/** Attempts ended in each of the last whole and running minutes, newest first; minutes without any are left out. */
export async function recentThroughput(db: Queryable, minutes: number) {
  const { rows } = await db.execute<{
    minute: Date;
    completed: number;
    failed: number;
    peak_memory_mb: number | null;
  }>(sql`
    select minute, sum(completed)::int as completed, sum(failed)::int as failed, max(peak_memory_mb) as peak_memory_mb from throughput
    where minute > now() - make_interval(mins => ${minutes}) group by minute order by minute desc`);
  return rows;
}

/** Attempts of the last day that did not end by themselves, of one owner's jobs if it is named, the latest first. */
export async function recentDeaths(db: Queryable, { owner, limit }: { owner: string | undefined; limit: number }) {
  return db
    .select({ job: { id: jobs.id, type: jobs.type, uploadId: jobs.uploadId }, attempt: jobAttempts })
    .from(jobAttempts)
    .innerJoin(jobs, eq(jobs.id, jobAttempts.jobId))
    .where(
      and(
        hasDied,
        gt(jobAttempts.finishedAt, sql`now() - interval '1 day'`),
        owner === undefined ? undefined : eq(jobs.owner, owner),
      ),
    )
    .orderBy(desc(jobAttempts.finishedAt))
    .limit(limit);
}

/**
 * How late the worst job of each kind is: the share of its timeout that the running attempt has used which used most, and
 * how many jobs are due and not yet ready (up to `max`), with the seconds that the first of them is overdue.
 */
export async function worstDelays(db: Queryable, max: number) {
  const { rows } = await db.execute<{ used: number; overdue: number; seconds: number }>(sql`
    select
      (select coalesce(max(extract(epoch from now() - greatest(job_attempts.started_at, waited_at)) / timeout_seconds), 0)::float
        from jobs join job_attempts on job_id = jobs.id and job_attempts.attempt = jobs.attempt
        where jobs.status = 'running' and pending_children = 0) as used,
      (select count(*)::int from (
        select from jobs where status in ('scheduled', 'retrying') and priority = any(${sql.param([...PRIORITIES])}) and due_at <= now()
        limit ${max}) due) as overdue,
      (select coalesce(max(extract(epoch from now() - first.due_at)), 0)::float
        from unnest(${sql.param([...PRIORITIES])}::text[]) as each(priority), lateral (
          select due_at from jobs
          where status in ('scheduled', 'retrying') and jobs.priority = each.priority and due_at <= now()
          order by due_at limit 1) first) as seconds`);
  return { timeoutUsed: rows[0]?.used ?? 0, overdueJobs: rows[0]?.overdue ?? 0, overdueSeconds: rows[0]?.seconds ?? 0 };
}
