import type { Priority } from '../db/schema.ts';

/** Levels of urgency, from 0 up to `MAX_LEVEL`. A waiting job of a higher level always starts before one of a lower. */
const LEVELS: Record<Priority, number> = { low: 0, normal: 1, high: 2, critical: 3 };
const MAX_LEVEL = LEVELS.critical;

/** A job rises one level for each hour that it waits, up to `high`: a flood of urgent jobs delays others, and no more. */
const AGING_SECONDS = 3_600;
/** After a day of waiting any job counts as critical, so that none waits for ever. */
const MAX_WAIT_SECONDS = 86_400;

/**
 * The level of a job that has waited so long.
 * @param waitedSeconds since its arrival in the queue; negative for a part that yields to what came in since
 */
export function levelOf(priority: Priority, waitedSeconds: number): number {
  const level = LEVELS[priority];
  if (level === MAX_LEVEL || waitedSeconds >= MAX_WAIT_SECONDS) return MAX_LEVEL;
  const risen = level + Math.floor(Math.max(0, waitedSeconds) / AGING_SECONDS);
  return Math.min(risen, LEVELS.high);
}
