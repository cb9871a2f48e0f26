import type { Lane } from '../../db/webhooks.ts';

/** Limits the running deliveries of each lane. A delivery that becomes slow moves to the slow lane, which may exceed its limit. */
export class Lanes {
  readonly #max: number;
  readonly #slowAfterMs: number;
  readonly #onRoom: () => void;
  readonly #running: Record<Lane, number> = { prompt: 0, new: 0, slow: 0 };

  /** @param onRoom is called when a delivery leaves its lane */
  constructor({ max, slowAfterMs, onRoom }: { max: number; slowAfterMs: number; onRoom: () => void }) {
    this.#max = max;
    this.#slowAfterMs = slowAfterMs;
    this.#onRoom = onRoom;
  }

  /** Deliveries that may start now, by lane. */
  room(): Record<Lane, number> {
    const roomIn = (lane: Lane) => Math.max(0, this.#max - this.#running[lane]);
    return { prompt: roomIn('prompt'), new: roomIn('new'), slow: roomIn('slow') };
  }

  /** Runs a delivery, and counts it in its lane while it runs. */
  async run(lane: Lane, deliver: () => Promise<void>): Promise<void> {
    let current = lane;
    this.#running[current]++;
    const timer = setTimeout(() => {
      this.#running[current]--;
      current = 'slow';
      this.#running[current]++;
      this.#onRoom();
    }, this.#slowAfterMs);
    try {
      await deliver();
    } finally {
      clearTimeout(timer);
      this.#running[current]--;
      this.#onRoom();
    }
  }
}
