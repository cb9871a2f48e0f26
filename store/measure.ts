import { createHash } from 'node:crypto';

const HEAD_BYTES = 1024;

/** A stream of bytes whose head is known before it is read, and whose size and hash are known afterwards. */
export class MeasuredSource {
  /** The first 1024 bytes, or all of a smaller source. */
  readonly head: Buffer;
  readonly #first: Buffer[];
  readonly #rest: AsyncIterator<Buffer>;
  readonly #hash = createHash('sha256');
  #bytes = 0;

  private constructor(first: Buffer[], rest: AsyncIterator<Buffer>) {
    this.head = Buffer.concat(first).subarray(0, HEAD_BYTES);
    this.#first = first;
    this.#rest = rest;
  }

  /** Reads the head. The caller then reads `content` or calls `cancel`. */
  static async open(source: AsyncIterable<Buffer>): Promise<MeasuredSource> {
    const rest = source[Symbol.asyncIterator]();
    const first: Buffer[] = [];
    for (let size = 0; size < HEAD_BYTES; ) {
      const next = await rest.next();
      if (next.done) break;
      first.push(next.value);
      size += next.value.length;
    }
    return new MeasuredSource(first, rest);
  }

  /** Everything, the head included. Leaving the loop early cancels the source. */
  async *content(): AsyncGenerator<Buffer, void> {
    try {
      for (const chunk of this.#first.splice(0)) yield this.#count(chunk);
      for (let next = await this.#rest.next(); !next.done; next = await this.#rest.next())
        yield this.#count(next.value);
    } finally {
      await this.cancel();
    }
  }

  /** Ends the source. */
  async cancel(): Promise<void> {
    await this.#rest.return?.();
  }

  /** The size and the hash of what `content` has given. */
  totals(): { bytes: number; sha256: string } {
    return { bytes: this.#bytes, sha256: this.#hash.copy().digest('hex') };
  }

  #count(chunk: Buffer): Buffer {
    this.#hash.update(chunk);
    this.#bytes += chunk.length;
    return chunk;
  }
}
