import { fits, type Reservation, type Room, roomOf } from '../jobs/room.ts';
import type { Shape } from '../jobs/shape.ts';

/** What this converter has reserved, in its own memory: a dead converter takes its reservations with it. */
export function createLedger(capacity: Shape) {
  const running = new Set<Reservation>();
  return {
    running: (): Reservation[] => [...running],
    /** What may still be reserved. Idle sandboxes live in it, and make room when it is. */
    free: (): Room => roomOf(capacity, running),
    /** Reserves a shape for a time; gives the function that releases it. Throws when it does not fit. */
    reserve(shape: Shape, timeoutSeconds: number): () => void {
      if (!fits(shape, roomOf(capacity, running))) {
        throw new Error(`over capacity: ${shape.cpuUnits} units and ${shape.memoryMb} MB do not fit`);
      }
      const reservation = { shape, endsAt: Date.now() + timeoutSeconds * 1_000 };
      running.add(reservation);
      return () => running.delete(reservation);
    },
  };
}
