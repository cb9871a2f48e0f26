import { isBackground, ORDINARY_MB, type Shape } from './shape.ts';

/** A running job as its converter counts it. */
export interface Reservation {
  shape: Shape;
  /** The time at which its timeout ends it, in ms since 1970. */
  endsAt: number;
}

/** The free capacity of a converter. */
export interface Room extends Shape {
  /** The memory, in MB, of the largest job that may start in the background lane. */
  backgroundMb: number;
}

/**
 * The free capacity beside the running jobs. The first job of the background lane may reserve all memory. Others join it
 * while the lane has fewer jobs than the converter has CPU units, and leaves memory for an ordinary job to each unit.
 */
export function roomOf(capacity: Shape, running: Iterable<Reservation>): Room {
  const room = { ...capacity };
  let background = 0;
  let backgroundMb = 0;
  for (const { shape } of running) {
    room.cpuUnits -= shape.cpuUnits;
    room.memoryMb -= shape.memoryMb;
    if (!isBackground(shape)) continue;
    background++;
    backgroundMb += shape.memoryMb;
  }
  const shared = capacity.memoryMb - capacity.cpuUnits * ORDINARY_MB - backgroundMb;
  const joinableMb = background < capacity.cpuUnits ? Math.max(0, shared) : 0;
  return { ...room, backgroundMb: background === 0 ? capacity.memoryMb : joinableMb };
}

export function fits(shape: Shape, { cpuUnits, memoryMb, backgroundMb }: Room): boolean {
  if (shape.cpuUnits > cpuUnits || shape.memoryMb > memoryMb) return false;
  return !isBackground(shape) || shape.memoryMb <= backgroundMb;
}
