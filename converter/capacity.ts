import type { Shape } from '../jobs/shape.ts';

/** What this converter has reserved, in its own memory: a dead converter takes its reservations with it. */
export function createLedger(capacity: Shape) {
  const reserved: Shape = { cpuUnits: 0, memoryMb: 0 };
  return {
    /** What may still be reserved. */
    free(): Shape {
      return { cpuUnits: capacity.cpuUnits - reserved.cpuUnits, memoryMb: capacity.memoryMb - reserved.memoryMb };
    },
    /** Reserves a shape; gives the function that releases it. Throws when it does not fit. */
    reserve(shape: Shape): () => void {
      reserved.cpuUnits += shape.cpuUnits;
      reserved.memoryMb += shape.memoryMb;
      if (reserved.cpuUnits > capacity.cpuUnits || reserved.memoryMb > capacity.memoryMb) {
        throw new Error(`over capacity: ${reserved.cpuUnits} units, ${reserved.memoryMb} MB reserved`);
      }
      return () => {
        reserved.cpuUnits -= shape.cpuUnits;
        reserved.memoryMb -= shape.memoryMb;
      };
    },
  };
}
