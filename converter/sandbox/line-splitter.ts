const NEWLINE = 0x0a;
const MIN_CAPACITY = 4 * 1024;

/** Splits a stream of bytes into lines, and buffers at most one line of `maxBytes`. */
export class LineSplitter {
  /** The length limit of a line; it may change between two chunks. */
  maxBytes: number;
  #buffer = Buffer.alloc(0);
  #length = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** Yields the lines that end in `chunk`, each valid until the next. Throws a RangeError for a line that is too long. */
  *split(chunk: Buffer): Generator<Buffer> {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      yield this.#complete(chunk.subarray(from, end));
      from = end + 1;
    }
    this.#append(chunk.subarray(from));
  }

  #complete(rest: Buffer): Buffer {
    if (this.#length === 0) {
      this.#check(rest.length);
      return rest;
    }
    this.#append(rest);
    const line = this.#buffer.subarray(0, this.#length);
    this.#length = 0;
    // Long lines are rare, so the buffer is not kept.
    this.#buffer = Buffer.alloc(0);
    return line;
  }

  /** Copies the part: keeping a chunk of one byte would use hundreds of bytes. */
  #append(part: Buffer): void {
    const length = this.#length + part.length;
    this.#check(length);
    if (length > this.#buffer.length) {
      const larger = Buffer.alloc(Math.min(Math.max(2 * this.#buffer.length, length, MIN_CAPACITY), this.maxBytes));
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    part.copy(this.#buffer, this.#length);
    this.#length = length;
  }

  #check(length: number): void {
    if (length > this.maxBytes) throw new RangeError(`a line has more than ${this.maxBytes} bytes`);
  }
}
