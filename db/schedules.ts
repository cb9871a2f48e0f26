import { and, asc, eq, isNull, lte, sql } from 'drizzle-orm';
import type { Queryable, Transaction } from './client.ts';
import { lockSchedulesOf } from './locks.ts';
import { firstRow } from './rows.ts';
import { ENDED, jobs, schedules } from './schema.ts';

export type Schedule = typeof schedules.$inferSelect;

/** The fields of a schedule that a run changes. */
export type RecordedRun = Pick<Schedule, 'id' | 'nextRunAt' | 'lastRunAt' | 'lastJobId' | 'lastError'>;

/** The schedule of this name: the caller's own first, then others by owner. `sees` is the owner whose schedules are visible; undefined for all. */
export async function findSchedule(
  db: Queryable,
  name: string,
  { owner, sees }: { owner: string | null; sees: string | undefined },
): Promise<Schedule | undefined> {
  const [schedule] = await db
    .select()
    .from(schedules)
    .where(and(eq(schedules.name, name), sees === undefined ? undefined : eq(schedules.owner, sees)))
    .orderBy(sql`${schedules.owner} is not distinct from ${owner} desc`, asc(schedules.owner))
    .limit(1);
  return schedule;
}

/** The last schedule of a page of a list. */
export interface ScheduleCursor {
  name: string;
  id: string;
}

/** Schedules by name, `limit` at most, after a cursor; those of one owner if it is given. `next` is null at the end. */
export async function listSchedules(
  db: Queryable,
  owner: string | undefined,
  { limit, after }: { limit: number; after?: ScheduleCursor | undefined },
): Promise<{ items: Schedule[]; next: ScheduleCursor | null }> {
  const found = await db
    .select()
    .from(schedules)
    .where(
      and(
        owner === undefined ? undefined : eq(schedules.owner, owner),
        after && sql`(${schedules.name}, ${schedules.id}) > (${after.name}, ${after.id}::uuid)`,
      ),
    )
    .orderBy(asc(schedules.name), asc(schedules.id))
    .limit(limit + 1);
  const last = found.length > limit ? found[limit - 1] : undefined;
  return { items: found.slice(0, limit), next: last ? { name: last.name, id: last.id } : null };
}

/** The number of an owner's schedules, and whether the name is new. Locks the owner's schedules until the transaction ends. */
export async function lockOwned(
  tx: Transaction,
  owner: string | null,
  name: string,
): Promise<{ count: number; isNew: boolean }> {
  await lockSchedulesOf(tx, owner);
  const owned = owner === null ? isNull(schedules.owner) : eq(schedules.owner, owner);
  const count = await tx.$count(schedules, owned);
  const known = await tx.$count(schedules, and(owned, eq(schedules.name, name)));
  return { count, isNew: known === 0 };
}

/** Creates or replaces a schedule. The next run stays unless the times of the schedule change. */
export async function storeSchedule(
  tx: Transaction,
  schedule: Omit<Schedule, 'lastRunAt' | 'lastJobId' | 'lastError' | 'createdAt' | 'updatedAt'>,
): Promise<Schedule> {
  const { id: _, owner: __, name: ___, ...replaced } = schedule;
  const stored = await tx
    .insert(schedules)
    .values(schedule)
    .onConflictDoUpdate({
      target: [schedules.owner, schedules.name],
      set: {
        ...replaced,
        nextRunAt: sql`case when schedules.cron = excluded.cron and schedules.timezone = excluded.timezone
            and not excluded.paused then coalesce(schedules.next_run_at, excluded.next_run_at)
          else excluded.next_run_at end`,
        lastError: null,
        updatedAt: sql`now()`,
      },
    })
    .returning();
  return firstRow(stored);
}

/** Returns whether it existed. */
export async function deleteSchedule(db: Queryable, id: string): Promise<boolean> {
  const { rowCount } = await db.delete(schedules).where(eq(schedules.id, id));
  return rowCount === 1;
}

/** The time of Postgres's clock, which all processes share. */
export async function readClock(db: Queryable): Promise<Date> {
  const { rows } = await db.execute<{ ms: number }>(
    sql`select floor(extract(epoch from clock_timestamp()) * 1000)::float8 as ms`,
  );
  return new Date(firstRow(rows).ms);
}

/** Milliseconds until the next run of any schedule: 0 or less when one is due, undefined when there is none. */
export async function millisecondsToNextRun(db: Queryable): Promise<number | undefined> {
  const { rows } = await db.execute<{ ms: number }>(sql`
    select extract(epoch from next_run_at - clock_timestamp())::float8 * 1000 as ms
    from schedules where next_run_at is not null order by next_run_at limit 1`);
  return rows[0]?.ms;
}

/** Locks up to `limit` due schedules, longest overdue first. Skips schedules that are locked. */
export async function lockDueSchedules(tx: Transaction, limit: number): Promise<Schedule[]> {
  return tx
    .select()
    .from(schedules)
    .where(lte(schedules.nextRunAt, sql`now()`))
    .orderBy(asc(schedules.nextRunAt))
    .limit(limit)
    .for('update', { skipLocked: true });
}

export async function lockSchedule(tx: Transaction, id: string): Promise<Schedule | undefined> {
  const [schedule] = await tx.select().from(schedules).where(eq(schedules.id, id)).for('update');
  return schedule;
}

/** The ids of the jobs that have not ended. */
export async function findUnendedJobs(tx: Transaction, ids: string[]): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const found = await tx
    .select({ id: jobs.id })
    .from(jobs)
    .where(sql`${jobs.id} = any(${sql.param(ids)}) and ${jobs.status} <> all(${sql.param([...ENDED])})`);
  return new Set(found.map(({ id }) => id));
}

export async function recordRuns(tx: Transaction, runs: RecordedRun[]): Promise<void> {
  const rows = runs.map(({ id, nextRunAt, lastRunAt, lastJobId, lastError }) => ({
    id,
    next_run_at: nextRunAt,
    last_run_at: lastRunAt,
    last_job_id: lastJobId,
    last_error: lastError,
  }));
  await tx.execute(sql`
    update schedules set next_run_at = run.next_run_at, last_run_at = run.last_run_at, last_job_id = run.last_job_id,
      last_error = run.last_error
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
      as run (id uuid, next_run_at timestamptz, last_run_at timestamptz, last_job_id text, last_error jsonb)
    where schedules.id = run.id`);
}
