import { ORDINARY_MB, type Shape } from './shape.ts';

/** A job without CPU units that reserves more runs in the background lane: at a low priority, on idle CPU. */
export const LARGE_MB = 512;

/** True if a job of this shape runs in the background lane. */
export function isBackground({ cpuUnits, memoryMb }: Shape): boolean {
  return cpuUnits === 0 && memoryMb > LARGE_MB;
}

/**
 * The memory, in MB, of the largest job that may start in the background lane beside the jobs in it. The first job may
 * reserve all memory. Others join it while the lane has fewer jobs than the converter has CPU units, and leaves memory for
 * an ordinary job to each unit.
 */
export function backgroundMemory(capacity: Shape, running: Shape[]): number {
  const background = running.filter(isBackground);
  if (background.length === 0) return capacity.memoryMb;
  if (background.length >= capacity.cpuUnits) return 0;
  const reservedMb = background.reduce((sum, { memoryMb }) => sum + memoryMb, 0);
  return Math.max(0, capacity.memoryMb - capacity.cpuUnits * ORDINARY_MB - reservedMb);
}
