import type { Priority } from '../db/schema.ts';

/** A waiting job of a higher level always starts before one of a lower level. */
const LEVELS: Record<Priority, number> = { low: 0, normal: 1, high: 2, critical: 3 };
const MAX_LEVEL = LEVELS.critical;

/** A job rises one level for each hour that it waits, up to `high`, so that urgent jobs delay others but never starve them. */
const AGING_SECONDS = 3_600;
/** After a day any job counts as critical, so that none waits for ever. */
const MAX_WAIT_SECONDS = 86_400;

/**
 * The level of a waiting job.
 * @param waitedSeconds since its arrival in the queue; negative for a child that arrives in the future
 */
export function levelOf(priority: Priority, waitedSeconds: number): number {
  const level = LEVELS[priority];
  if (level === MAX_LEVEL || waitedSeconds >= MAX_WAIT_SECONDS) return MAX_LEVEL;
  const risen = level + Math.floor(Math.max(0, waitedSeconds) / AGING_SECONDS);
  return Math.min(risen, LEVELS.high);
}
