import { sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { isWaiting } from './schema.ts';

/** The waiting jobs of one owner. */
export interface Usage {
  jobs: number;
  payloadBytes: number;
  /** The distinct shapes among them, as `shapeKey` writes them. */
  shapes: ReadonlySet<string>;
}

export function shapeKey({ cpuUnits, memoryMb }: { cpuUnits: number; memoryMb: number }): string {
  return `${cpuUnits}/${memoryMb}`;
}

/**
 * Reads the usage of an owner from the index `jobs_waiting`. It reads at most `maxJobs` jobs, and each shape costs one probe
 * per status. The order is that of the index, so that Postgres stops at the limit.
 * @param owner empty for jobs without an owner
 */
export async function readUsage(db: Queryable, owner: string, maxJobs: number, maxShapes: number): Promise<Usage> {
  const ofOwner = sql`coalesce(jobs.owner, '') = ${owner} and ${isWaiting}`;
  const { rows } = await db.execute<{ jobs: number; bytes: string; shapes: { cpuUnits: number; memoryMb: number }[] }>(
    sql`
    with recursive shapes as (
      (select status, cpu_units, memory_mb from jobs where ${ofOwner}
        order by jobs.status, jobs.cpu_units, jobs.memory_mb limit 1)
      union all
      select next.status, next.cpu_units, next.memory_mb from shapes, lateral (
        select status, cpu_units, memory_mb from jobs
        where ${ofOwner} and (jobs.status, jobs.cpu_units, jobs.memory_mb) > (shapes.status, shapes.cpu_units, shapes.memory_mb)
        order by jobs.status, jobs.cpu_units, jobs.memory_mb limit 1) next
    ),
    found as (select cpu_units, memory_mb from shapes limit ${maxShapes * 4})
    select count(*)::int as jobs, coalesce(sum(payload_bytes), 0) as bytes,
      (select coalesce(json_agg(distinct jsonb_build_object('cpuUnits', cpu_units, 'memoryMb', memory_mb)), '[]') from found) as shapes
    from (
      select payload_bytes from jobs where ${ofOwner}
      order by jobs.status, jobs.cpu_units, jobs.memory_mb limit ${maxJobs}) looked_at`,
  );
  const [row] = rows;
  return {
    jobs: row?.jobs ?? 0,
    payloadBytes: Number(row?.bytes ?? 0),
    shapes: new Set(row?.shapes.map(shapeKey)),
  };
}

/**
 * Counts ready jobs up to `max`, and those of one owner up to `maxPerOwner`: jobs beyond an owner's limit, such as the parts
 * of its uploads, do not count against other owners. Jobs without an owner all count.
 */
export async function countReady(db: Queryable, max: number, maxPerOwner: number): Promise<number> {
  const { rows } = await db.execute<{ jobs: number }>(sql`
    with recursive owners as (
      (select coalesce(jobs.owner, '') as owner from jobs where ${isWaiting} order by coalesce(jobs.owner, '') limit 1)
      union all
      select next.owner from owners, lateral (
        select coalesce(jobs.owner, '') as owner from jobs where ${isWaiting} and coalesce(jobs.owner, '') > owners.owner
        order by coalesce(jobs.owner, '') limit 1) next
    )
    select count(*)::int as jobs from (
      select 1 from owners, lateral (
        select 1 from jobs where coalesce(jobs.owner, '') = owners.owner and ${isWaiting} and jobs.status = 'ready'
        limit case when owners.owner = '' then ${max}::int else ${maxPerOwner}::int end) ready
      limit ${max}) looked_at`);
  return rows[0]?.jobs ?? 0;
}
