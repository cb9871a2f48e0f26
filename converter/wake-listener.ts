import { MAX_LISTENERS } from '../jobs/wake.ts';

interface NotifyListener {
  close(): Promise<void>;
}

interface Parts {
  /** The id of the converter. */
  id: string;
  listen: () => NotifyListener;
  /** Gets the sorted ids of the converters that listen. */
  onListeners: (ids: string[]) => void;
}

/**
 * Listens to NOTIFY while the converter is one of the first `MAX_LISTENERS`. Each commit that notifies wakes all listeners,
 * so in a large fleet most converters rely on polls and on the ends of the jobs that they run. The owner calls `close()`.
 */
export class WakeListener {
  readonly #parts: Parts;
  #listener: NotifyListener | undefined;
  #closing: Promise<unknown> = Promise.resolve();

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#listener = parts.listen();
  }

  /** Sets the sorted ids of all live converters. */
  setPeers(ids: readonly string[]): void {
    const { id, listen, onListeners } = this.#parts;
    const listeners = ids.slice(0, MAX_LISTENERS);
    onListeners(listeners);
    // A converter that is not in the list is new, and gets its position with the next heartbeat.
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
