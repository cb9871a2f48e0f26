import type { Shape } from '../jobs/shape.ts';

/** What this converter has reserved, in its own memory: a dead converter takes its reservations with it. */
export function createLedger(capacity: Shape) {
  const reserved: Shape = { cpuUnits: 0, memoryMb: 0 };
  return {
    /** What may still be reserved. Idle sandboxes live in it, and make room when it is. */
    free(): Shape {
      return { cpuUnits: capacity.cpuUnits - reserved.cpuUnits, memoryMb: capacity.memoryMb - reserved.memoryMb };
    },
    /** Reserves a shape; gives the function that releases it. Throws when it does not fit. */
    reserve(shape: Shape): () => void {
      const cpuUnits = reserved.cpuUnits + shape.cpuUnits;
      const memoryMb = reserved.memoryMb + shape.memoryMb;
      if (cpuUnits > capacity.cpuUnits || memoryMb > capacity.memoryMb) {
        throw new Error(`over capacity: ${cpuUnits} units, ${memoryMb} MB reserved`);
      }
      Object.assign(reserved, { cpuUnits, memoryMb });
      return () => {
        reserved.cpuUnits -= shape.cpuUnits;
        reserved.memoryMb -= shape.memoryMb;
      };
    },
  };
}
