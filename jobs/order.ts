import { sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Priority } from '../db/schema.ts';

/** Seconds by which a priority counts as having arrived earlier: so an old low job overtakes new normal ones in an hour. */
const BOOST_SECONDS: Record<Priority, number> = { critical: 86_400, high: 3_600, normal: 0, low: -3_600 };

/** Ranks count from here, so that they fit Postgres's int4 for 68 years. */
const EPOCH_MS = Date.UTC(2026, 0, 1);

/**
 * The one number that orders waiting jobs, higher first: the negated virtual arrival time in seconds.
 * `arrival` is when the job could first have run: the later of its creation and its `run_at`.
 */
export function rankOf(priority: Priority, arrival: Date): number {
  return BOOST_SECONDS[priority] - Math.floor((arrival.getTime() - EPOCH_MS) / 1000);
}

/**
 * Where an owner's next job stands, at best: behind that owner's own, one second a job; those for later do not count.
 * Gives the rank; the job after it has one less, and so on.
 *
 * The owners of one priority take turns. Who has nothing waiting joins the turn under way, which is the head of the queue:
 * so a flood by one owner never stands before the single job of another. Who was served in this very turn waits for the
 * next, so that two who come and go cannot keep a third out.
 */
export async function nextTurn(tx: Transaction, owner: string, priority: Priority, now: Date): Promise<number> {
  const { rows } = await tx.execute<{ head: number | null; last: number | null; waits: boolean | null }>(sql`
    select (select max(rank) from jobs where status = 'ready' and owner is not null and priority = ${priority}) as head,
      own.rank as last, own.status in ('ready', 'blocked', 'scheduled', 'retrying') as waits
    from (select 1) one left join lateral (
      select rank, status from jobs
      where owner = ${owner} and priority = ${priority} and (run_at is null or run_at <= now())
      order by created_at desc, rank limit 1) own on true`);
  const { head = null, last = null, waits = null } = rows[0] ?? {};
  const arrival = rankOf(priority, now);
  const turn = Math.max(arrival, head ?? arrival);
  if (last === null) return turn;
  // A flood runs ahead of time, a second a job: its head, and not the arrival, tells how far the turns have come.
  return Math.min(turn, waits ? last - 1 : Math.max(last - 1, (head ?? arrival) - 1));
}
