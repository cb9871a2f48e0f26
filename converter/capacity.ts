import { inBackground, type Room, type Shape } from '../jobs/shape.ts';

/** What this converter has reserved, in its own memory: a dead converter takes its reservations with it. */
export function createLedger(capacity: Shape) {
  const reserved = { cpuUnits: 0, memoryMb: 0, background: 0 };
  return {
    /** What may still be reserved. Idle sandboxes live in it, and make room when it is. */
    free(): Room {
      return {
        cpuUnits: capacity.cpuUnits - reserved.cpuUnits,
        memoryMb: capacity.memoryMb - reserved.memoryMb,
        background: capacity.cpuUnits - reserved.background,
      };
    },
    /** Reserves a shape; gives the function that releases it. Throws when it does not fit. */
    reserve(shape: Shape): () => void {
      const cpuUnits = reserved.cpuUnits + shape.cpuUnits;
      const memoryMb = reserved.memoryMb + shape.memoryMb;
      if (cpuUnits > capacity.cpuUnits || memoryMb > capacity.memoryMb) {
        throw new Error(`over capacity: ${cpuUnits} units, ${memoryMb} MB reserved`);
      }
      const background = inBackground(shape) ? 1 : 0;
      Object.assign(reserved, { cpuUnits, memoryMb, background: reserved.background + background });
      return () => {
        reserved.cpuUnits -= shape.cpuUnits;
        reserved.memoryMb -= shape.memoryMb;
        reserved.background -= background;
      };
    },
  };
}
