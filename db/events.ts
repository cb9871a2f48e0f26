import { and, asc, desc, eq, gt, lte, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { events, jobs, type LogLevel, type Progress } from './schema.ts';

export type Event = typeof events.$inferSelect;

/** A place in the order of events: by writing transaction, then by id. */
export interface EventCursor {
  xact: string;
  id: number;
}

/** The place before all events. */
export const BEGINNING: EventCursor = { xact: '0', id: 0 };

/** NOTIFY channel without content: there are new events. */
export const EVENTS_CHANNEL = 'sheetmill_events';
/** NOTIFY channel with the ids of jobs or uploads that have changed, as JSON; without content when there are too many. */
export const CHANGES_CHANNEL = 'sheetmill_changes';
/** NOTIFY channel with the ids of running jobs whose progress has changed, as JSON; without content when there are too many. */
export const PROGRESS_CHANNEL = 'sheetmill_progress';

/** Selects events; an absent member selects all. */
export interface EventFilter {
  owner?: string | undefined;
  jobId?: string | undefined;
  uploadId?: string | undefined;
}

const place = sql`(${events.xact}, ${events.id})`;
const cursorValue = ({ xact, id }: EventCursor) => sql`(${xact}::xid8, ${id}::bigint)`;
/** No transaction that still runs, or is still to come, can write an event before one of these. */
const isComplete = sql`${events.xact} < pg_snapshot_xmin(pg_current_snapshot())`;
const isIncomplete = sql`${events.xact} >= pg_snapshot_xmin(pg_current_snapshot())`;

/** Negative when `a` comes before `b`, 0 when they are the same place. */
export function compareCursors(a: EventCursor, b: EventCursor): number {
  return Number(BigInt(a.xact) - BigInt(b.xact)) || a.id - b.id;
}

/** The place of the last event that a follower can have seen. */
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
 * The place of the event with this id. If that event is no longer kept, the place before which a follower that has seen
 * it has seen everything: next to the nearest kept event with a lower id.
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
 * The next events after a cursor, and up to another, `limit` at most. Only those of transactions below the oldest one
 * that still runs, so that none appears later before one that was given already: there are no gaps.
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
        sql`${place} > ${cursorValue(after)}`,
        upTo && sql`${place} <= ${cursorValue(upTo)}`,
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
 * The progress of those of the jobs that run, as a follower may see it who has seen all events up to `cursor`: none of a
 * job with a later event, so that progress never comes before the start of its attempt or after its end.
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
          and ${place} > ${cursorValue(cursor)})`,
      ),
    );
  return rows.flatMap(({ progress, ...row }) => (progress === null ? [] : [{ ...row, progress }]));
}

/** Delays of the stream. */
export interface EventsHealth {
  /** For how long the oldest event that is withheld from followers has been withheld: 0 when none is. */
  lagSeconds: number;
  /** Share of Postgres's queue of notifications that is full; commits fail at 1. */
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

/** The oldest transaction of the cluster that has written or may write, for people: it withholds events. */
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
 * Makes events of another cluster readable after a restore or a logical replication. Their transaction ids mean nothing
 * here, and may lie far ahead: if one does, all events that are there are ordered by id. For the start, before events are
 * read; otherwise one look at an index.
 */
export const ADOPT_EVENTS = `
  update events set xact = '0', oldest_xact = '0'
  where exists (select 1 from events where xact >= pg_snapshot_xmax(pg_current_snapshot()))`;

/**
 * The kept events of one job, oldest first: its changes of status, and the lines of its task. Everything that writes
 * events of a job holds the lock of its row, so their ids are in the order of their commits and `after` leaves no gap.
 */
export async function listLogs(
  db: Queryable,
  jobId: string,
  { after, limit }: { after: number; limit: number },
): Promise<Event[]> {
  return db
    .select()
    .from(events)
    .where(and(eq(events.jobId, jobId), gt(events.id, after)))
    .orderBy(asc(events.id))
    .limit(limit);
}

/** A line that a task logged. */
export interface LogLine {
  at: Date;
  level: LogLevel;
  message: string;
  data?: Record<string, unknown> | undefined;
}

/** Adds lines to the log of a job that is still there; `listLogs` says why it locks the job first. */
export async function appendLogs(
  db: Queryable,
  { id, attempt }: { id: string; attempt: number },
  lines: LogLine[],
): Promise<void> {
  await db.execute(sql`
    with job as materialized (select id, type, upload_id from jobs where id = ${id} for no key update)
    insert into events (kind, job_id, type, upload_id, attempt, at, level, message, data)
    select 'log', job.id, job.type, job.upload_id, ${attempt}::int, line.at, line.level, line.message, line.data
    from job, jsonb_to_recordset(${JSON.stringify(lines)}::jsonb)
      as line(at timestamptz, level text, message text, data jsonb)`);
}
