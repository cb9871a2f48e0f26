import { and, asc, eq, gt, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import type { Event } from './events.ts';
import { events, type LogLevel } from './schema.ts';

/** A line that a task logged. */
export interface LogLine {
  at: Date;
  level: LogLevel;
  message: string;
  data?: Record<string, unknown> | undefined;
}

/**
 * The kept events of a job, oldest first: its changes of status, and the lines of its task. Every writer of these events
 * locks the row of the job first, so ids follow the order of commits and `after` leaves no gap.
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

/** Adds lines to the log of a job, unless it was deleted. Locks the row of the job, as `listLogs` requires. */
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
