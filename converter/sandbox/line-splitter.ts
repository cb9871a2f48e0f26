const NEWLINE = 0x0a;
const MIN_CAPACITY = 4 * 1024;

/** Cuts a stream of bytes into lines, and holds no more than one line of at most `maxBytes`. */
export class Lines {
  /** The largest line that is accepted; may change between two chunks. */
  maxBytes: number;
  #held = Buffer.alloc(0);
  #length = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** Gives the lines that end in `chunk`, each valid until the next. Throws a RangeError for a line that is too long. */
  *cut(chunk: Buffer): Generator<Buffer> {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      yield this.#complete(chunk.subarray(from, end));
      from = end + 1;
    }
    this.#hold(chunk.subarray(from));
  }

  #complete(rest: Buffer): Buffer {
    if (this.#length === 0) {
      this.#check(rest.length);
      return rest;
    }
    this.#hold(rest);
    const line = this.#held.subarray(0, this.#length);
    this.#length = 0;
    // A long line is rare: its memory is not kept for the next one.
    this.#held = Buffer.alloc(0);
    return line;
  }

  /** Copies: a chunk of one byte takes hundreds of bytes while it is kept. */
  #hold(part: Buffer): void {
    const length = this.#length + part.length;
    this.#check(length);
    if (length > this.#held.length) {
      const larger = Buffer.alloc(Math.min(Math.max(2 * this.#held.length, length, MIN_CAPACITY), this.maxBytes));
      this.#held.copy(larger, 0, 0, this.#length);
      this.#held = larger;
    }
    part.copy(this.#held, this.#length);
    this.#length = length;
  }

  #check(length: number): void {
    if (length > this.maxBytes) throw new RangeError(`a line has more than ${this.maxBytes} bytes`);
  }
}
