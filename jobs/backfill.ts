import { fits, freeCapacityOf, type Reservation } from './free-capacity.ts';
import type { Shape } from './shape.ts';

/*
 * EASY backfill: a large job that has waited too long gets a latest start, and only jobs that do not delay it start before.
 * All times are in ms since 1970, and follow from the timeouts of the running jobs.
 */

/** The latest time at which `shape` fits, if no other job starts; undefined when it never fits `capacity`. */
export function startsBy(capacity: Shape, running: Reservation[], shape: Shape, now: number): number | undefined {
  const left = running.toSorted((a, b) => a.endsAt - b.endsAt);
  let at = now;
  while (!fits(shape, freeCapacityOf(capacity, left))) {
    const next = left.shift();
    if (next === undefined) return undefined;
    at = Math.max(now, next.endsAt);
  }
  return at;
}

/** True if `candidate` may start now without delaying `held`: it ends before, or both fit. */
export function mayBackfill(
  capacity: Shape,
  running: Reservation[],
  held: { shape: Shape; startsAt: number },
  candidate: Reservation,
): boolean {
  if (candidate.endsAt <= held.startsAt) return true;
  const then = running.filter(({ endsAt }) => endsAt > held.startsAt);
  return fits(held.shape, freeCapacityOf(capacity, [...then, candidate]));
}
