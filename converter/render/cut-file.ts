import { open } from 'node:fs/promises';

/** An image that was cut short is repaired when more than this share of its rows is there. */
export const MIN_SHARE = 0.95;

/** A file that decodes, with missing rows in grey (JPEG) or black (PNG). */
export interface RepairedImage {
  data: Buffer;
  /** The damage that sharp must accept. */
  failOn: 'none' | 'error';
}

/** The longest tail that is added to a file. */
const MAX_TAIL_BYTES = 16_384;

/** The bytes of a file that was cut short, with room for a new end: a file is too large to be copied. */
export class CutFile {
  readonly #buffer: Buffer;
  readonly size: number;

  private constructor(buffer: Buffer, size: number) {
    this.#buffer = buffer;
    this.size = size;
  }

  static async read(file: string): Promise<CutFile> {
    const handle = await open(file);
    try {
      const { size } = await handle.stat();
      const buffer = Buffer.alloc(size + MAX_TAIL_BYTES);
      const { bytesRead } = await handle.read(buffer, 0, size, 0);
      return new CutFile(buffer, bytesRead);
    } finally {
      await handle.close();
    }
  }

  /** The first bytes of the file. */
  head(end: number): Buffer {
    return this.#buffer.subarray(0, end);
  }

  /** The first bytes of the file with a new tail, which overwrites an earlier one. */
  withTail(end: number, tail: Buffer): Buffer {
    tail.copy(this.#buffer, end);
    return this.head(end + tail.length);
  }

  overwrite(at: number, value: number): void {
    this.#buffer.writeUInt32BE(value, at);
  }
}
