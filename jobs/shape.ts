import { AppError } from '../runtime/errors.ts';

/** The reservation of a job: whole CPU units, and a class of memory in MB. */
export interface Shape {
  cpuUnits: number;
  memoryMb: number;
}

/** Resident memory of a sandbox with its libraries, in MB: part of every reservation. */
export const BASELINE_MB = 120;

/** The memory of an ordinary job, in MB. */
export const ORDINARY_MB = 256;

/** Memory classes in MB: few, so that ready jobs form few groups, each at most 1.5 times the one below it. */
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

/** Throws for a shape that no job may reserve. CHECK constraints of the table have the same bounds. */
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
