import { backgroundMemory, isBackground } from './background-lane.ts';
import type { Shape } from './shape.ts';

/** A running job as its converter counts it. */
export interface Reservation {
  shape: Shape;
  /** The time at which its timeout ends it, in ms since 1970. */
  endsAt: number;
}

/** The free capacity of a converter. */
export interface FreeCapacity extends Shape {
  /** The memory, in MB, of the largest job that may start in the background lane. */
  backgroundMb: number;
}

export function freeCapacityOf(capacity: Shape, running: Iterable<Reservation>): FreeCapacity {
  const shapes = [...running].map(({ shape }) => shape);
  const sum = (member: keyof Shape) => shapes.reduce((total, shape) => total + shape[member], 0);
  return {
    cpuUnits: capacity.cpuUnits - sum('cpuUnits'),
    memoryMb: capacity.memoryMb - sum('memoryMb'),
    backgroundMb: backgroundMemory(capacity, shapes),
  };
}

export function fits(shape: Shape, { cpuUnits, memoryMb, backgroundMb }: FreeCapacity): boolean {
  if (shape.cpuUnits > cpuUnits || shape.memoryMb > memoryMb) return false;
  return !isBackground(shape) || shape.memoryMb <= backgroundMb;
}
