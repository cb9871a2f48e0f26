import type { WebSocket } from 'ws';

/** Bytes that the connection is given at a time. */
const MAX_WRITE_BYTES = 16 * 1024;

/**
 * Messages on their way to one client, in order. The connection gets a few at a time, since it takes memory for each; the
 * others wait here, where a message costs its bytes once for all clients.
 */
export class Outbox {
  readonly #client: Pick<WebSocket, 'send'>;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #isWriting = false;
  #onEmpty: (() => void)[] = [];

  constructor(client: Pick<WebSocket, 'send'>) {
    this.#client = client;
  }

  /** Of the messages that the connection has not been given yet. */
  get bytes(): number {
    return this.#bytes;
  }

  add(...messages: Buffer[]): void {
    for (const message of messages) {
      this.#waiting.push(message);
      this.#bytes += message.length;
    }
    if (!this.#isWriting) this.#write();
  }

  /** Resolves when the connection has taken everything, or has ended. */
  emptied(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isWriting) this.#onEmpty.push(resolve);
      else resolve();
    });
  }

  /** Drops what the connection has not been given yet. */
  clear(): void {
    this.#waiting = [];
    this.#bytes = 0;
  }

  #write(): void {
    const batch = this.#takeBatch();
    this.#isWriting = batch.length > 0;
    for (const [index, message] of batch.entries()) {
      const isLast = index === batch.length - 1;
      this.#client.send(message, { binary: false }, (error) => {
        if (error) this.clear();
        if (isLast) this.#write();
      });
    }
    if (!this.#isWriting) for (const resolve of this.#onEmpty.splice(0)) resolve();
  }

  #takeBatch(): Buffer[] {
    let bytes = 0;
    const end = this.#waiting.findIndex((message) => {
      bytes += message.length;
      return bytes >= MAX_WRITE_BYTES;
    });
    const batch = this.#waiting.splice(0, end < 0 ? this.#waiting.length : end + 1);
    this.#bytes -= bytes;
    return batch;
  }
}
