import { type SQL, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';

/** Finds and deletes expired rows, in batches. Each query reads one end of an index, whatever the size of its table. */

/** The position of a row in a round over expired rows, which meets no row twice. The time is as Postgres writes it. */
export interface Place {
  at: string;
  id: string;
}

/** Selects the rows of a batch: `limit` at most, behind the row `after`, and none of `without`. */
export interface Batch {
  after: Place | undefined;
  without: string[];
  limit: number;
}

/** The pages of a batch of uploads, unless one upload has more: one statement deletes them with their events. */
const MAX_PAGES = 20_000;

export const isExpired = sql`expires_at <= now()`;
export const endedBefore = (days: number) => sql`finished_at < now() - make_interval(days => ${days})`;

const places = (column: SQL, { after, without, limit }: Batch) => sql`
  ${after === undefined ? sql`true` : sql`(${column}, id) > (${after.at}::timestamptz, ${after.id})`}
  and not id::text = any(${sql.param(without)}::text[]) order by ${column}, id limit ${limit}`;

/** Uploads past `expires_at`, or past their retention. `isLive` means that jobs of the upload may be running. */
export async function listExpiredUploads(
  db: Queryable,
  reason: { expired: true } | { days: number },
  batch: Batch,
): Promise<(Place & { isLive: boolean })[]> {
  const [isDue, column] =
    'days' in reason ? [endedBefore(reason.days), sql`finished_at`] : [isExpired, sql`expires_at`];
  const { rows } = await db.execute<{ id: string; at: string; isLive: boolean }>(sql`
    select id, "at", "isLive" from (
      select id, at::text, "isLive", row_number() over oldest as nth, sum(pages) over oldest as pages from (
        select id, ${column} as at, finished_at is null as "isLive", coalesce(pages_total, pages_done) as pages
        from uploads where ${isDue} and ${places(column, batch)}) batch
      window oldest as (order by at, id)) counted
    where pages <= ${MAX_PAGES} or nth = 1 order by nth`);
  return rows;
}

/** Jobs without an upload that ended more than `days` ago. */
export async function listExpiredJobs(db: Queryable, days: number, batch: Batch): Promise<Place[]> {
  const { rows } = await db.execute<{ id: string; at: string }>(sql`
    select id, finished_at::text as at from jobs
    where upload_id is null and ${endedBefore(days)} and ${places(sql`finished_at`, batch)}`);
  return rows;
}

/**
 * Deletes those of the next `limit` events that are older than `days`. Returns the id of the last event that it read;
 * undefined when it deleted none.
 */
export async function deleteOldEvents(
  db: Queryable,
  days: number,
  { after, limit }: { after: number; limit: number },
): Promise<number | undefined> {
  const { rows } = await db.execute<{ last: string | null; deleted: number }>(sql`
    with oldest as materialized (
      select id, at from events where id > ${after} order by id limit ${limit} for update skip locked
    ), deleted as (
      delete from events where id = any(array(select id from oldest where at < now() - make_interval(days => ${days})))
      returning id
    )
    select (select max(id) from oldest) as last, (select count(*)::int from deleted) as deleted`);
  const { last = null, deleted = 0 } = rows[0] ?? {};
  return deleted > 0 ? Number(last) : undefined;
}

/** How many seconds ago the oldest row of each kind expired; 0 when none has. */
export async function overdueSeconds(
  db: Queryable,
  days: number | undefined,
): Promise<Record<'uploads' | 'jobs' | 'events', number>> {
  const since = (oldest: SQL) => sql`coalesce(greatest(0, extract(epoch from now() - (${oldest})))::float, 0)`;
  const kept = sql`make_interval(days => ${days ?? null}::int)`;
  // Without retention only `expires_at` counts, since least() and coalesce() ignore null.
  const { rows } = await db.execute<Record<'uploads' | 'jobs' | 'events', number>>(sql`
    select ${since(sql`least((select min(expires_at) from uploads), (select min(finished_at) from uploads) + ${kept})`)} as uploads,
      ${since(sql`(select min(finished_at) from jobs where upload_id is null) + ${kept}`)} as jobs,
      ${since(sql`(select at from events order by id limit 1) + ${kept}`)} as events`);
  return rows[0] ?? { uploads: 0, jobs: 0, events: 0 };
}
