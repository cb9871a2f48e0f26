import type { Priority } from '../db/schema.ts';
import { mayBackfill, startsBy } from './backfill.ts';
import { countTurns, type Shares } from './fairness.ts';
import { fits, freeCapacityOf, type Reservation } from './free-capacity.ts';
import { levelOf } from './priority.ts';
import type { Shape } from './shape.ts';

/** The fields of a ready job that decide its turn. */
export interface Waiting {
  id: string;
  priority: Priority;
  /** Empty without API keys. */
  owner: string;
  type: string;
  shape: Shape;
  timeoutSeconds: number;
  /** The time since its arrival in the queue. */
  waitedSeconds: number;
}

/** The number of jobs of each type that may start; a type without an entry has no limit. */
export type Slots = ReadonlyMap<string, number>;

/** The job for which a converter drains. */
export interface Held {
  id: string;
  shape: Shape;
  level: number;
  /** The latest time at which it fits, in ms since 1970. */
  startsAt: number;
}

/** The maximum number of jobs in one claim. */
export const MAX_CLAIM = 32;
/** A converter drains for a job that has waited this long without room. */
const PATIENCE_SECONDS = 30;
/** A converter drains no longer than this before the large job fits. */
const MAX_IDLE_SECONDS = 600;
/** A large job that has waited this long is not subject to `MAX_IDLE_SECONDS`, so that it starts at last. */
const STRICT_AFTER_SECONDS = 3_600;

interface Converter {
  capacity: Shape;
  running: Reservation[];
  /** In ms since 1970. */
  now: number;
}

/**
 * The job for which this converter should drain: the one that has waited longest among the most urgent, if it lacks room and
 * has waited for `PATIENCE_SECONDS`. Undefined without such a job, or when the converter would idle for too long.
 */
export function findHeld(waiting: Waiting[], { capacity, running, now }: Converter): Held | undefined {
  const levels = waiting.map((job) => levelOf(job.priority, job.waitedSeconds));
  const top = Math.max(...levels);
  const room = freeCapacityOf(capacity, running);
  const [longest] = waiting
    .filter((job, index) => levels[index] === top && !fits(job.shape, room) && job.waitedSeconds > PATIENCE_SECONDS)
    .sort((a, b) => b.waitedSeconds - a.waitedSeconds);
  if (longest === undefined) return undefined;
  const startsAt = startsBy(capacity, running, longest.shape, now);
  if (startsAt === undefined) return undefined;
  const isSoon = startsAt - now <= MAX_IDLE_SECONDS * 1_000;
  if (!isSoon && longest.waitedSeconds < STRICT_AFTER_SECONDS) return undefined;
  return { id: longest.id, shape: longest.shape, level: top, startsAt };
}

/**
 * The jobs to start now, in order: first by level, then by the turns of their owners, then by arrival; of each type at most
 * its slots. A job that lacks room is skipped, and no job may delay `held`.
 */
export function planClaim(
  waiting: Waiting[],
  shares: Shares,
  { capacity, running, now }: Converter,
  held: Held | undefined,
  slots: Slots = new Map(),
): Waiting[] {
  const turns = countTurns(shares);
  const started = [...running];
  const byLevel = Map.groupBy(waiting, (job) => levelOf(job.priority, job.waitedSeconds));
  const planned: Waiting[] = [];
  const free = new Map(slots);
  for (const [level, jobs] of [...byLevel].sort(([a], [b]) => b - a)) {
    const left = jobs.toSorted((a, b) => b.waitedSeconds - a.waitedSeconds);
    while (planned.length < MAX_CLAIM) {
      const room = freeCapacityOf(capacity, started);
      const reservationOf = ({ shape, timeoutSeconds }: Waiting) => ({ shape, endsAt: now + timeoutSeconds * 1_000 });
      const mayStart = (job: Waiting) =>
        (free.get(job.type) ?? Infinity) > 0 &&
        fits(job.shape, room) &&
        (held === undefined || level > held.level || mayBackfill(capacity, started, held, reservationOf(job)));
      // The sort is stable, so that among equal turns the job that waited longest is first.
      const firsts = [...Map.groupBy(left.filter(mayStart), ({ owner }) => owner).values()].flatMap(
        ([job]) => job ?? [],
      );
      const [next] = firsts.sort((a, b) => turns.next(a.owner) - turns.next(b.owner));
      if (next === undefined) break;
      turns.take(next.owner);
      started.push(reservationOf(next));
      planned.push(next);
      free.set(next.type, (free.get(next.type) ?? Infinity) - 1);
      left.splice(left.indexOf(next), 1);
    }
  }
  return planned;
}
