import { type FreeCapacity, fits, freeCapacityOf, type Reservation } from '../jobs/free-capacity.ts';
import type { Shape } from '../jobs/shape.ts';

/** The reservations of this converter. They are kept in memory, so that they end with the process. */
export class Reservations {
  readonly capacity: Shape;
  readonly #running = new Set<Reservation>();

  constructor(capacity: Shape) {
    this.capacity = capacity;
  }

  list(): Reservation[] {
    return [...this.#running];
  }

  /** The room that is not reserved. Idle sandboxes use it until it is. */
  free(): FreeCapacity {
    return freeCapacityOf(this.capacity, this.#running);
  }

  /** Reserves a shape and returns the function that releases it. Throws when the shape does not fit. */
  reserve(shape: Shape, timeoutSeconds: number): () => void {
    if (!fits(shape, this.free())) {
      throw new Error(`over capacity: ${shape.cpuUnits} CPU units and ${shape.memoryMb} MB do not fit`);
    }
    const reservation = { shape, endsAt: Date.now() + timeoutSeconds * 1_000 };
    this.#running.add(reservation);
    return () => this.#running.delete(reservation);
  }
}
