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
