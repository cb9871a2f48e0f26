import { inBackground, ORDINARY_MB, type Shape } from './shape.ts';

/** A running job as its converter counts it. */
export interface Reservation {
  shape: Shape;
  /** When its timeout ends it at the latest, in ms since 1970. */
  endsAt: number;
}

/** The room that a converter may still reserve. */
export interface Room extends Shape {
  /** The largest job that may start in the background, in MB. */
  backgroundMb: number;
}

/**
 * The room that running jobs leave. The first job in the background may take all memory. Others join it while there are
 * no more of them than CPU units, and together they leave an ordinary conversion to each unit.
 */
export function roomOf(capacity: Shape, running: Iterable<Reservation>): Room {
  const room = { ...capacity };
  let background = 0;
  let backgroundMb = 0;
  for (const { shape } of running) {
    room.cpuUnits -= shape.cpuUnits;
    room.memoryMb -= shape.memoryMb;
    if (!inBackground(shape)) continue;
    background++;
    backgroundMb += shape.memoryMb;
  }
  const shared = capacity.memoryMb - capacity.cpuUnits * ORDINARY_MB - backgroundMb;
  const joins = background < capacity.cpuUnits ? Math.max(0, shared) : 0;
  return { ...room, backgroundMb: background === 0 ? capacity.memoryMb : joins };
}

export function fits(shape: Shape, { cpuUnits, memoryMb, backgroundMb }: Room): boolean {
  if (shape.cpuUnits > cpuUnits || shape.memoryMb > memoryMb) return false;
  return !inBackground(shape) || shape.memoryMb <= backgroundMb;
}
