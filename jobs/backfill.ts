import { fits, type Reservation, roomOf } from './room.ts';
import type { Shape } from './shape.ts';

/**
 * EASY backfill: a large job that has waited too long gets a time at which it can start at the latest, and only what does
 * not delay that starts before it. All times are in ms since 1970, and taken from timeouts, which are kept.
 */

/** When `shape` fits at the latest, if nothing else starts. Undefined when it never fits `capacity`. */
export function startsBy(capacity: Shape, running: Reservation[], shape: Shape, now: number): number | undefined {
  const left = running.toSorted((a, b) => a.endsAt - b.endsAt);
  let at = now;
  while (!fits(shape, roomOf(capacity, left))) {
    const next = left.shift();
    if (next === undefined) return undefined;
    at = Math.max(now, next.endsAt);
  }
  return at;
}

/** Whether `candidate` may start now, so that `held` still fits at `startsAt`: it ends before, or leaves the room. */
export function mayBackfill(
  capacity: Shape,
  running: Reservation[],
  held: { shape: Shape; startsAt: number },
  candidate: Reservation,
): boolean {
  if (candidate.endsAt <= held.startsAt) return true;
  const then = running.filter(({ endsAt }) => endsAt > held.startsAt);
  return fits(held.shape, roomOf(capacity, [...then, candidate]));
}
