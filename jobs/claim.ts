import { and, eq, inArray, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { converters, jobAttempts, jobs, uploads } from '../db/schema.ts';
import { queueName, type Shape } from './shape.ts';
import { transition } from './transition.ts';

export type Job = typeof jobs.$inferSelect;

/** A job that this converter runs now. `queueId` and `attempt` together fence everything that the attempt writes. */
export type ClaimedJob = Job & { queueId: string };

/** What of a claimed job fences its settlement; a row of `jobs` will do. */
export type AttemptKey = Pick<ClaimedJob, 'id' | 'queueId' | 'attempt' | 'cpuUnits' | 'memoryMb'>;

/** Most jobs of one shape that one claim takes. */
const LARGEST_CLAIM = 8;

/**
 * Claims the best waiting jobs of one shape that fit `free`, as many as fit: the head of each queue is looked at, and
 * the best head that fits decides the queue. Gives none when nothing fits or another converter was faster, and throws
 * `ConverterLost` when this converter was declared lost.
 */
export async function claimJobs(
  db: Database,
  queues: Queues,
  converter: { id: string; name: string },
  free: Shape,
): Promise<ClaimedJob[]> {
  const shape = await bestFittingHead(db, free);
  if (shape === undefined) return [];
  await queues.ensure(queueName(shape));
  const count = Math.min(
    LARGEST_CLAIM,
    Math.floor(free.cpuUnits / shape.cpuUnits),
    Math.floor(free.memoryMb / shape.memoryMb),
  );
  return transition(db, async (tx) => {
    const queueIds = await queues.fetch(tx, queueName(shape), count);
    if (queueIds.length === 0) return [];
    const [live] = await tx
      .select({ id: converters.id })
      .from(converters)
      .where(and(eq(converters.id, converter.id), eq(converters.status, 'live')))
      .for('share');
    if (live === undefined) throw new ConverterLost();
    const claimed = await tx
      .update(jobs)
      .set({
        status: 'running',
        attempt: sql`${jobs.attempt} + 1`,
        converterId: converter.id,
        startedAt: sql`coalesce(${jobs.startedAt}, now())`,
        runAt: null,
      })
      .where(and(inArray(jobs.queueId, queueIds), eq(jobs.status, 'ready')))
      .returning();
    if (claimed.length === 0) return [];
    await tx.insert(jobAttempts).values(
      claimed.map((job) => ({
        jobId: job.id,
        attempt: job.attempt,
        converterId: converter.id,
        converter: converter.name,
        cpuUnits: job.cpuUnits,
        memoryMb: job.memoryMb,
      })),
    );
    const uploadIds = [...new Set(claimed.flatMap(({ uploadId }) => uploadId ?? []))].sort();
    if (uploadIds.length > 0) {
      await tx
        .update(uploads)
        .set({ status: 'processing' })
        .where(and(inArray(uploads.id, uploadIds), eq(uploads.status, 'queued')));
    }
    return (claimed as ClaimedJob[]).sort((a, b) => b.rank - a.rank);
  });
}

/** This converter's row no longer says `live`: others have taken over its jobs. */
export class ConverterLost extends Error {}

/** The shape of the best ready job that fits `free`, by one probe of the index of ready jobs for each shape. */
async function bestFittingHead(db: Database, free: Shape): Promise<Shape | undefined> {
  const { rows } = await db.execute<{ cpu_units: number; memory_mb: number }>(sql`
    with recursive shapes as (
      (select cpu_units, memory_mb from jobs where status = 'ready' order by cpu_units, memory_mb limit 1)
      union all
      select next.cpu_units, next.memory_mb from shapes, lateral (
        select cpu_units, memory_mb from jobs
        where status = 'ready' and (jobs.cpu_units, jobs.memory_mb) > (shapes.cpu_units, shapes.memory_mb)
        order by cpu_units, memory_mb limit 1) next
    )
    select shapes.cpu_units, shapes.memory_mb from shapes, lateral (
      select rank, created_at from jobs
      where status = 'ready' and cpu_units = shapes.cpu_units and memory_mb = shapes.memory_mb
      order by rank desc, created_at limit 1) head
    where cpu_units <= ${free.cpuUnits} and memory_mb <= ${free.memoryMb}
    order by head.rank desc, head.created_at limit 1`);
  return rows[0] && { cpuUnits: rows[0].cpu_units, memoryMb: rows[0].memory_mb };
}
