import { and, desc, eq, gt, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { inGroup, readyGroups } from './ready-jobs.ts';
import { converters, hasDied, jobAttempts, jobs } from './schema.ts';

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
      heartbeatAt: converters.heartbeatAt,
      startedAt: converters.startedAt,
    })
    .from(converters)
    .crossJoinLateral(reserved)
    .where(eq(converters.status, 'live'))
    .orderBy(desc(converters.startedAt));
}

/** For each shape that has ready jobs: how many (up to `max`), and since when the oldest of these has been ready. */
export async function queueDepths(db: Queryable, max: number) {
  const { rows } = await db.execute<{ cpu_units: number; memory_mb: number; depth: number; age: number }>(sql`
    ${readyGroups}
    select cpu_units, memory_mb, least(${max}, sum(depth))::int as depth,
      extract(epoch from now() - min(oldest))::float as age
    from groups, lateral (
      select count(*) as depth, min(ready_at) as oldest from (
        select ready_at from jobs where ${inGroup} order by arrived_at limit ${max}) first) counted
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
