import { and, eq, getTableColumns, inArray, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { type JobRow, readyShapes } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { converters, jobAttempts, jobs, uploads } from '../db/schema.ts';
import { inBackground, queueName, type Room, type Shape } from './shape.ts';
import { transition } from './transition.ts';

export type Job = JobRow;

/**
 * A job that this converter runs now. `queueId` and `attempt` together fence everything that the attempt writes.
 * `waitedSeconds` passed since it became ready, by Postgres's clock.
 */
export type ClaimedJob = Job & { queueId: string; waitedSeconds: number };

/** What of a claimed job fences its settlement; a row of `jobs` will do. */
export type AttemptKey = Pick<ClaimedJob, 'id' | 'queueId' | 'attempt' | 'cpuUnits' | 'memoryMb'>;

/** Most jobs of one shape that one claim takes. */
const LARGEST_CLAIM = 32;
/** When the best job has waited this long for a converter with room, one converter makes room. */
const PATIENCE_SECONDS = 30;
/** A converter that makes room says so anew in every round of its claim loop, one a second at least. */
const DRAIN_SECONDS = 5;
/** Any constant will do, as long as all converters agree on it. */
const DRAIN_LOCK = 7_311_003;

/** The first job of a queue. */
interface Head {
  shape: Shape;
  rank: number;
  waited: number;
}

/**
 * Claims the best waiting jobs of one shape that fit `free`, as many as fit and come before the head of any other queue
 * that fits. Gives none when nothing fits, others were faster, or this one makes room for a large job that has
 * waited too long; throws `ConverterLost` when this converter was declared lost.
 */
export async function claimJobs(
  db: Database,
  queues: Queues,
  converter: { id: string; name: string },
  { free, capacity }: { free: Room; capacity: Shape },
): Promise<ClaimedJob[]> {
  // What could never fit here is another converter's business.
  const [best, ...others] = await headsWithin(db, capacity);
  if (best === undefined) return [];
  // What waits for others in the background to end would gain nothing by more room.
  const lacksRoom = !fits(best.shape, free) && mayJoin(best.shape, free);
  if (lacksRoom && best.waited > PATIENCE_SECONDS && (await drains(db, converter.id))) return [];
  const fitting = [best, ...others].filter(({ shape }) => fits(shape, free));
  for (const [index, { shape }] of fitting.entries()) {
    const claimed = await claimFrom(db, queues, converter, { shape, free, minRank: fitting[index + 1]?.rank });
    // None: another converter was faster; the next queue may have some left.
    if (claimed.length > 0) return claimed;
  }
  return [];
}

async function claimFrom(
  db: Database,
  queues: Queues,
  converter: { id: string; name: string },
  { shape, free, minRank }: { shape: Shape; free: Room; minRank: number | undefined },
): Promise<ClaimedJob[]> {
  const count = Math.min(
    LARGEST_CLAIM,
    // One in the background changes how much others may take there.
    inBackground(shape) ? 1 : timesIn(free.cpuUnits, shape.cpuUnits),
    timesIn(free.memoryMb, shape.memoryMb),
  );
  return transition(db, async (tx) => {
    const queueIds = await queues.fetch(tx, queueName(shape), { count, minRank });
    if (queueIds.length === 0) return [];
    const [live] = await tx
      .select({ id: converters.id })
      .from(converters)
      .where(and(eq(converters.id, converter.id), eq(converters.status, 'live')))
      // A share lock would stop the converter's own heartbeat; this one stops only `declareLost`.
      .for('key share');
    if (live === undefined) throw new ConverterLost();
    const claimed = await tx
      .update(jobs)
      .set({
        status: 'running',
        attempt: sql`${jobs.attempt} + 1`,
        converterId: converter.id,
        progress: null,
        startedAt: sql`coalesce(${jobs.startedAt}, now())`,
      })
      .where(and(inArray(jobs.queueId, queueIds), eq(jobs.status, 'ready')))
      .returning({
        ...getTableColumns(jobs),
        // Not now(): a job may have become ready since this transaction began.
        waitedSeconds: sql<number>`extract(epoch from clock_timestamp() - ${jobs.readyAt})::float`,
      });
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
    return (claimed as ClaimedJob[]).sort((a, b) => b.rank - a.rank || Number(a.readyAt) - Number(b.readyAt));
  });
}

/** This converter's row no longer says `live`: others have taken over its jobs. */
export class ConverterLost extends Error {}

function fits(shape: Shape, room: Room): boolean {
  return shape.cpuUnits <= room.cpuUnits && shape.memoryMb <= room.memoryMb && mayJoin(shape, room);
}

function mayJoin(shape: Shape, { backgroundMb = Number.POSITIVE_INFINITY }: Room): boolean {
  return !inBackground(shape) || shape.memoryMb <= backgroundMb;
}

/** A task that waits more than it computes may ask for no CPU at all: any number fits. */
function timesIn(room: number, each: number): number {
  return each === 0 ? Number.POSITIVE_INFINITY : Math.floor(room / each);
}

/** The head of each queue whose shape fits `capacity`, best first: one probe of the index of ready jobs for each. */
async function headsWithin(db: Database, capacity: Shape): Promise<Head[]> {
  const { rows } = await db.execute<{ cpu_units: number; memory_mb: number; rank: number; waited: number }>(sql`
    ${readyShapes}
    select cpu_units, memory_mb, rank, extract(epoch from now() - ready_at)::float as waited from shapes, lateral (
      select rank, ready_at from jobs
      where status = 'ready' and cpu_units = shapes.cpu_units and memory_mb = shapes.memory_mb
      order by rank desc, ready_at limit 1) head
    where cpu_units <= ${capacity.cpuUnits} and memory_mb <= ${capacity.memoryMb}
    order by rank desc, ready_at`);
  return rows.map(({ cpu_units, memory_mb, rank, waited }) => ({
    shape: { cpuUnits: cpu_units, memoryMb: memory_mb },
    rank,
    waited,
  }));
}

/** Whether this converter is the one that makes room now: one at a time, by a lease that ends with it. */
async function drains(db: Database, converterId: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    await tx.execute(sql`select pg_advisory_xact_lock(${DRAIN_LOCK})`);
    const { rowCount } = await tx.execute(sql`
      update converters set drains_until = now() + make_interval(secs => ${DRAIN_SECONDS})
      where id = ${converterId} and status = 'live' and not exists (
        select 1 from converters other where other.id <> ${converterId} and other.status = 'live' and other.drains_until > now())`);
    return rowCount === 1;
  });
}
