import { AppError } from '../runtime/errors.ts';

/** What a job reserves while it runs: whole CPU units, and memory in MB, rounded up to a class. */
export interface Shape {
  cpuUnits: number;
  memoryMb: number;
}

/** Resident memory of a sandbox that has loaded its libraries, in MB: part of every reservation. */
export const BASELINE_MB = 120;

/** The memory that an ordinary conversion reserves. */
export const ORDINARY_MB = 256;

/** A conversion that takes more than this works in the background: at a low priority, on the CPU that others leave. */
export const LARGE_MB = 512;

/** What a conversion reserves. In the background it takes no CPU unit from those that are not. */
export function conversionShape(memoryMb: number): Shape {
  return { cpuUnits: memoryMb > LARGE_MB ? 0 : 1, memoryMb };
}

/** Whether a shape is one of those. */
export function inBackground({ cpuUnits, memoryMb }: Shape): boolean {
  return cpuUnits === 0 && memoryMb > LARGE_MB;
}

/** Memory classes in MB: few, so that ready jobs form few groups; a class is at most 1.5 times the one below it. */
export const MEMORY_CLASSES = [256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384] as const;
export const MAX_CLASS_MB = 16_384;
const MAX_CPU_UNITS = 1_024;

/** The smallest memory class that holds `megabytes`. Throws `out_of_memory` beyond the largest. */
export function memoryClass(megabytes: number): number {
  const found = MEMORY_CLASSES.find((size) => size >= megabytes);
  if (found === undefined) {
    throw new AppError('out_of_memory', `needs ${Math.ceil(megabytes)} MB, more than the largest class of 16384 MB`);
  }
  return found;
}

/** Throws for a shape that no job may reserve. The table of jobs has the same bounds. */
export function checkShape({ cpuUnits, memoryMb }: Shape): void {
  const hasUnits = Number.isInteger(cpuUnits) && cpuUnits >= 0 && cpuUnits <= MAX_CPU_UNITS;
  if (!hasUnits) {
    throw new AppError('invalid_request', `cpu_units: must be from 0 to ${MAX_CPU_UNITS} (got ${cpuUnits})`);
  }
  if (!MEMORY_CLASSES.some((size) => size === memoryMb)) {
    throw new AppError('invalid_request', `memory_mb: must be one of ${MEMORY_CLASSES.join(', ')} (got ${memoryMb})`);
  }
}

/** The class above this one; undefined above the largest. */
export function nextMemoryClass(memoryMb: number): number | undefined {
  return MEMORY_CLASSES.find((size) => size > memoryMb);
}

/** The largest memory class within `megabytes`; the smallest class where none is. */
export function classWithin(megabytes: number): number {
  return MEMORY_CLASSES.findLast((size) => size <= megabytes) ?? MEMORY_CLASSES[0];
}
