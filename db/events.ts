import { and, asc, eq, getTableColumns, gt, inArray, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { events, jobs, type LogLevel, uploads } from './schema.ts';

export type Event = typeof events.$inferSelect;

/** With whose it is: of its job or upload, as long as that is there. */
export type OwnedEvent = Event & { owner: string | null };

/** A place in the order of events: by writing transaction, then by id. */
export interface EventCursor {
  xact: string;
  id: number;
}

/** NOTIFY channel that wakes whoever follows events; without content. */
export const EVENTS_CHANNEL = 'sheetmill_events';

/** What a reader wants of the stream. */
export interface EventFilter {
  jobId?: string | undefined;
  uploadId?: string | undefined;
}

/** The place after everything that has happened so far. */
export async function currentCursor(db: Queryable): Promise<EventCursor> {
  const { rows } = await db.execute<{ xact: string }>(
    sql`select pg_snapshot_xmin(pg_current_snapshot())::text as xact`,
  );
  return { xact: rows[0]?.xact ?? '0', id: 0 };
}

/** The place of the event with this id; if it is no longer kept (or 0), the place before everything that is. */
export async function cursorAt(db: Queryable, id: number): Promise<EventCursor> {
  const [event] = await db.select({ xact: events.xact }).from(events).where(eq(events.id, id));
  return { xact: event?.xact ?? '0', id: event === undefined ? 0 : id };
}

/**
 * The next events after a cursor, and up to another, `limit` at most. Only those of transactions below the oldest one
 * that still runs, so that none appears later before one that was given already: there are no gaps.
 */
export async function readEvents(
  db: Queryable,
  { after, upTo, filter = {}, limit }: { after: EventCursor; upTo?: EventCursor; filter?: EventFilter; limit: number },
): Promise<OwnedEvent[]> {
  const place = sql`(${events.xact}, ${events.id})`;
  return db
    .select({ ...getTableColumns(events), owner: sql<string | null>`coalesce(${jobs.owner}, ${uploads.owner})` })
    .from(events)
    .leftJoin(jobs, eq(jobs.id, events.jobId))
    .leftJoin(uploads, eq(uploads.id, events.uploadId))
    .where(
      and(
        sql`${place} > (${after.xact}::xid8, ${after.id})`,
        upTo && sql`${place} <= (${upTo.xact}::xid8, ${upTo.id})`,
        sql`${events.xact} < pg_snapshot_xmin(pg_current_snapshot())`,
        inArray(events.kind, ['job', 'page', 'upload']),
        ...whereEvents(filter),
      ),
    )
    .orderBy(asc(events.xact), asc(events.id))
    .limit(limit);
}

function whereEvents({ jobId, uploadId }: EventFilter): SQL[] {
  return [
    ...(jobId === undefined ? [] : [eq(events.jobId, jobId)]),
    ...(uploadId === undefined ? [] : [eq(events.uploadId, uploadId)]),
  ];
}

/** What is kept of one job, oldest first: its changes of status, and what its task logged. */
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

export async function appendLogs(
  db: Queryable,
  { id, type, attempt, uploadId }: { id: string; type: string; attempt: number; uploadId: string | null },
  lines: LogLine[],
): Promise<void> {
  await db
    .insert(events)
    .values(lines.map((line) => ({ ...line, kind: 'log' as const, jobId: id, type, attempt, uploadId })));
}

/** The history of uploads that are being deleted: one event of each remains, by which its followers hear of that. */
export async function forgetHistory(tx: Queryable, uploadIds: string[]): Promise<void> {
  const ids = sql`${sql.param(uploadIds)}::uuid[]`;
  await tx.execute(sql`delete from events where upload_id = any(${ids})`);
  await tx.execute(
    sql`insert into events (kind, upload_id, status) select 'upload', id, 'deleted' from unnest(${ids}) id`,
  );
  await tx.execute(sql`select pg_notify(${EVENTS_CHANNEL}, '')`);
}
