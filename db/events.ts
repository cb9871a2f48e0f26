import { and, asc, desc, eq, lte, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { events, jobs, type Progress } from './schema.ts';

export type Event = typeof events.$inferSelect;

/** A position in the order of events: by writing transaction, then by id. */
export interface EventCursor {
  xact: string;
  id: number;
}

/** The position before all events. */
export const BEGINNING: EventCursor = { xact: '0', id: 0 };

/** NOTIFY channel for new events, without content. */
export const EVENTS_CHANNEL = 'sheetmill_events';
/** NOTIFY channel with the ids of changed jobs and uploads as JSON; without content when there are too many. */
export const CHANGES_CHANNEL = 'sheetmill_changes';
/** NOTIFY channel with the ids of running jobs with new progress as JSON; without content when there are too many. */
export const PROGRESS_CHANNEL = 'sheetmill_progress';

/** Selects events. An absent member selects all. */
export interface EventFilter {
  owner?: string | undefined;
  jobId?: string | undefined;
  uploadId?: string | undefined;
}

const position = sql`(${events.xact}, ${events.id})`;
const cursorValue = ({ xact, id }: EventCursor) => sql`(${xact}::xid8, ${id}::bigint)`;
/** True for an event that no running or future transaction can precede. */
const isComplete = sql`${events.xact} < pg_snapshot_xmin(pg_current_snapshot())`;
const isIncomplete = sql`${events.xact} >= pg_snapshot_xmin(pg_current_snapshot())`;

/** Negative when `a` comes before `b`, 0 when they are equal. */
export function compareCursors(a: EventCursor, b: EventCursor): number {
  return Number(BigInt(a.xact) - BigInt(b.xact)) || a.id - b.id;
}

/** The position of the last event that a follower can have seen. */
export async function currentCursor(db: Queryable): Promise<EventCursor> {
  const [last] = await db
    .select({ xact: events.xact, id: events.id })
    .from(events)
    .where(isComplete)
    .orderBy(desc(events.xact), desc(events.id))
    .limit(1);
  return last ?? BEGINNING;
}

/**
 * The position of the event with this id. If that event was deleted, the position up to which its follower has surely seen
 * everything, next to the nearest kept event with a lower id.
 */
export async function cursorAt(db: Queryable, id: number): Promise<EventCursor> {
  const [nearest] = await db
    .select({ id: events.id, xact: events.xact, oldestXact: events.oldestXact })
    .from(events)
    .where(lte(events.id, id))
    .orderBy(desc(events.id))
    .limit(1);
  if (nearest === undefined) return BEGINNING;
  const isExact = nearest.id === id || BigInt(nearest.oldestXact) >= BigInt(nearest.xact);
  return isExact ? { xact: nearest.xact, id: nearest.id } : { xact: nearest.oldestXact, id: 0 };
}

/**
 * The next events after a cursor, and up to another, `limit` at most. Events of transactions above the oldest running one
 * are withheld, so that no event appears later before one that was returned: there are no gaps.
 */
export async function readEvents(
  db: Queryable,
  { after, upTo, filter = {}, limit }: { after: EventCursor; upTo?: EventCursor; filter?: EventFilter; limit: number },
): Promise<Event[]> {
  return db
    .select()
    .from(events)
    .where(
      and(
        sql`${position} > ${cursorValue(after)}`,
        upTo && sql`${position} <= ${cursorValue(upTo)}`,
        isComplete,
        sql`${events.kind} <> 'log'`,
        ...whereEvents(filter),
      ),
    )
    .orderBy(asc(events.xact), asc(events.id))
    .limit(limit);
}

function whereEvents({ owner, jobId, uploadId }: EventFilter): SQL[] {
  return [
    ...(owner === undefined ? [] : [eq(events.owner, owner)]),
    ...(jobId === undefined ? [] : [eq(events.jobId, jobId)]),
    ...(uploadId === undefined ? [] : [eq(events.uploadId, uploadId)]),
  ];
}

/** The progress of a running job. */
export interface JobProgress {
  owner: string | null;
  jobId: string;
  uploadId: string | null;
  type: string;
  attempt: number;
  progress: Progress;
}

/**
 * The progress of the jobs that run, for a follower that has seen all events up to `cursor`. Jobs with a later event are
 * left out, so that progress never precedes the start of its attempt or follows its end.
 */
export async function readProgress(db: Queryable, jobIds: string[], cursor: EventCursor): Promise<JobProgress[]> {
  const rows = await db
    .select({
      owner: jobs.owner,
      jobId: jobs.id,
      uploadId: jobs.uploadId,
      type: jobs.type,
      attempt: jobs.attempt,
      progress: jobs.progress,
    })
    .from(jobs)
    .where(
      and(
        sql`${jobs.id} = any(${sql.param(jobIds)}::text[])`,
        eq(jobs.status, 'running'),
        sql`not exists (select 1 from ${events} where ${events.jobId} = ${jobs.id} and ${events.kind} = 'job'
          and ${position} > ${cursorValue(cursor)})`,
      ),
    );
  return rows.flatMap(({ progress, ...row }) => (progress === null ? [] : [{ ...row, progress }]));
}

/** Delays of the stream. */
export interface EventsHealth {
  /** The age of the oldest event that is withheld from followers: 0 when none is. */
  lagSeconds: number;
  /** The full part of Postgres's queue of notifications. Commits fail at 1. */
  notificationQueueUsage: number;
}

export async function readEventsHealth(db: Queryable): Promise<EventsHealth> {
  const oldest = db
    .select({ seconds: sql`extract(epoch from clock_timestamp() - ${events.at})` })
    .from(events)
    .where(isIncomplete)
    .orderBy(asc(events.xact), asc(events.id))
    .limit(1);
  const { rows } = await db.execute<{ lag: number; usage: number }>(
    sql`select greatest(0, (${oldest}))::float8 as lag, pg_notification_queue_usage()::float8 as usage`,
  );
  return { lagSeconds: rows[0]?.lag ?? 0, notificationQueueUsage: rows[0]?.usage ?? 0 };
}

/** The oldest transaction of the cluster that has written or may write, and so withholds events. For the log. */
export async function findOldestTransaction(db: Queryable): Promise<Record<string, unknown> | undefined> {
  const { rows } = await db.execute(sql`
    select * from (
      select pid, null as prepared, datname as database, usename as role, application_name as application,
        extract(epoch from now() - xact_start)::int as seconds, backend_xid as xid
      from pg_stat_activity where backend_xid is not null
      union all
      select null, gid, database, owner, null, extract(epoch from now() - prepared)::int, transaction from pg_prepared_xacts
    ) running order by age(xid) desc limit 1`);
  return rows[0];
}

/**
 * Makes events of another cluster readable, after a restore or a logical replication. Their transaction ids may lie far
 * ahead of this cluster's; if one does, all events are ordered by id. Runs before events are read.
 */
export const ADOPT_EVENTS = `
  update events set xact = '0', oldest_xact = '0'
  where exists (select 1 from events where xact >= pg_snapshot_xmax(pg_current_snapshot()))`;
