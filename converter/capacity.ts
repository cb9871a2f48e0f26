import { inBackground, ORDINARY_MB, type Room, type Shape } from '../jobs/shape.ts';

/** What this converter has reserved, in its own memory: a dead converter takes its reservations with it. */
export function createLedger(capacity: Shape) {
  const reserved = { cpuUnits: 0, memoryMb: 0, background: 0, backgroundMb: 0 };

  /**
   * The first job in the background may take whatever memory there is. Others join it while there are no more of them
   * than CPU units, and together they leave an ordinary conversion to each unit.
   */
  function backgroundMb(): number {
    if (reserved.background === 0) return capacity.memoryMb;
    if (reserved.background >= capacity.cpuUnits) return 0;
    return Math.max(0, capacity.memoryMb - capacity.cpuUnits * ORDINARY_MB - reserved.backgroundMb);
  }

  return {
    /** What may still be reserved. Idle sandboxes live in it, and make room when it is. */
    free(): Room {
      return {
        cpuUnits: capacity.cpuUnits - reserved.cpuUnits,
        memoryMb: capacity.memoryMb - reserved.memoryMb,
        backgroundMb: backgroundMb(),
      };
    },
    /** Reserves a shape; gives the function that releases it. Throws when it does not fit. */
    reserve(shape: Shape): () => void {
      const cpuUnits = reserved.cpuUnits + shape.cpuUnits;
      const memoryMb = reserved.memoryMb + shape.memoryMb;
      if (cpuUnits > capacity.cpuUnits || memoryMb > capacity.memoryMb) {
        throw new Error(`over capacity: ${cpuUnits} units, ${memoryMb} MB reserved`);
      }
      change(1);
      return () => change(-1);

      function change(sign: 1 | -1): void {
        reserved.cpuUnits += sign * shape.cpuUnits;
        reserved.memoryMb += sign * shape.memoryMb;
        if (!inBackground(shape)) return;
        reserved.background += sign;
        reserved.backgroundMb += sign * shape.memoryMb;
      }
    },
  };
}
