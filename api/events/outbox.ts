import type { WebSocket } from 'ws';

/** Bytes that are written to the connection at a time. */
const MAX_WRITE_BYTES = 16 * 1024;

/**
 * Queues messages for one client in order. The connection gets a few at a time, since it copies each message; messages in
 * the queue are shared by all clients.
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

  /** Bytes of the messages in the queue. */
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

  /** Resolves when the connection has sent all messages, or has closed. */
  emptied(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isWriting) this.#onEmpty.push(resolve);
      else resolve();
    });
  }

  /** Drops the messages in the queue. */
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
