import { and, desc, eq, gt, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { inGroup, readyGroups } from './ready-jobs.ts';
import { converters, isAbnormalEnd, jobAttempts, jobs, PRIORITIES } from './schema.ts';

/** A live converter, with the reservations of its running jobs. */
export type LiveConverter = Pick<
  typeof converters.$inferSelect,
  'id' | 'name' | 'cpuUnits' | 'memoryMb' | 'isolation' | 'heartbeatAt' | 'startedAt'
> & { reservedCpuUnits: number; reservedMemoryMb: number; running: number };

export async function listConverters(db: Queryable): Promise<LiveConverter[]> {
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

/** The ready jobs of a shape. */
export interface QueueDepth {
  cpuUnits: number;
  memoryMb: number;
  depth: number;
  /** The time since the oldest of them arrived. */
  oldestAgeSeconds: number;
}

/** The depth of each shape with ready jobs, counted up to `max`. Reads only an index. */
export async function queueDepths(db: Queryable, max: number): Promise<QueueDepth[]> {
  const { rows } = await db.execute<Record<keyof QueueDepth, number>>(sql`
    ${readyGroups}
    select cpu_units as "cpuUnits", memory_mb as "memoryMb", least(${max}, sum(depth))::int as depth,
      extract(epoch from now() - min(oldest))::float as "oldestAgeSeconds"
    from groups, lateral (
      select count(*) as depth, min(arrived_at) as oldest from (
        select arrived_at from jobs where ${inGroup} order by arrived_at limit ${max}) first) counted
    group by cpu_units, memory_mb order by cpu_units, memory_mb`);
  return rows;
}

/** The attempts that ended in a minute. */
export type Throughput = {
  minute: Date;
  completed: number;
  failed: number;
  peak_memory_mb: number | null;
};

/** The throughput of the last minutes, the current one included, newest first, without minutes that had none. */
export async function recentThroughput(db: Queryable, minutes: number): Promise<Throughput[]> {
  const { rows } = await db.execute<Throughput>(sql`
    select minute, sum(completed)::int as completed, sum(failed)::int as failed, max(peak_memory_mb) as peak_memory_mb from throughput
    where minute > now() - make_interval(mins => ${minutes}) group by minute order by minute desc`);
  return rows;
}

/** An attempt whose sandbox or converter was killed or crashed, with its job. */
export interface AbnormalEnd {
  job: Pick<typeof jobs.$inferSelect, 'id' | 'type' | 'uploadId'>;
  attempt: typeof jobAttempts.$inferSelect;
}

/** The abnormal ends of the last day, newest first; those of one owner's jobs if it is given. */
export async function recentAbnormalEnds(
  db: Queryable,
  { owner, limit }: { owner: string | undefined; limit: number },
): Promise<AbnormalEnd[]> {
  return db
    .select({ job: { id: jobs.id, type: jobs.type, uploadId: jobs.uploadId }, attempt: jobAttempts })
    .from(jobAttempts)
    .innerJoin(jobs, eq(jobs.id, jobAttempts.jobId))
    .where(
      and(
        isAbnormalEnd,
        gt(jobAttempts.finishedAt, sql`now() - interval '1 day'`),
        owner === undefined ? undefined : eq(jobs.owner, owner),
      ),
    )
    .orderBy(desc(jobAttempts.finishedAt))
    .limit(limit);
}

export interface Delays {
  /** The largest part of its timeout that a running attempt has used. */
  timeoutUsed: number;
  /** Jobs that are due and not yet ready. */
  overdueJobs: number;
  /** The time since the first of them was due. */
  overdueSeconds: number;
}

/** The delays of the latest jobs. Overdue jobs are counted up to `max`. */
export async function worstDelays(db: Queryable, max: number): Promise<Delays> {
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
