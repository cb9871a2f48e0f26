import { MAX_LISTENERS } from '../jobs/wake.ts';

interface Parts {
  /** The converter's. */
  id: string;
  /** Begins to listen to NOTIFYs; gives what ends that. */
  listen: () => { close(): Promise<void> };
  /** Takes the sorted ids of the converters that listen. */
  onListeners: (ids: string[]) => void;
}

/**
 * Lets a converter listen to NOTIFYs while it is one of the first `MAX_LISTENERS`. Postgres wakes all that listen at each
 * commit that notifies, so in a large fleet most converters rely on their polls, which then come many times a second, and on
 * the ends of their own jobs. The owner calls `close()`.
 */
export class WakeListener {
  readonly #parts: Parts;
  #listener: ReturnType<Parts['listen']> | undefined;
  #closing: Promise<unknown> = Promise.resolve();

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#listener = parts.listen();
  }

  /** Takes the sorted ids of all live converters. */
  setPeers(ids: readonly string[]): void {
    const { id, listen, onListeners } = this.#parts;
    const listeners = ids.slice(0, MAX_LISTENERS);
    onListeners(listeners);
    // A converter that is missing in a list has just come, and learns its place with its next heartbeat.
    if (listeners.includes(id) || !ids.includes(id)) this.#listener ??= listen();
    else this.#end();
  }

  async close(): Promise<void> {
    this.#end();
    await this.#closing;
  }

  #end(): void {
    if (this.#listener === undefined) return;
    this.#closing = Promise.all([this.#closing, this.#listener.close()]);
    this.#listener = undefined;
  }
}
