import { crc32 } from 'node:zlib';
import { MAX_SIDE } from '../render/fit.ts';
import { RejectedOutput } from './rejected-output.ts';

const SIGNATURE = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
const IHDR = Buffer.from([0, 0, 0, 13, ...Buffer.from('IHDR')]);
const IEND = Buffer.from([0, 0, 0, 0, ...Buffer.from('IEND'), 0xae, 0x42, 0x60, 0x82]);
/** The signature, and IHDR with its checksum. */
const HEAD_BYTES = 33;
/** The bit depths of each colour type, up to the 8 of our pages. */
const DEPTHS: Record<number, number[]> = { 0: [1, 2, 4, 8], 2: [8], 3: [1, 2, 4, 8], 4: [8], 6: [8] };
/** The overhead of deflate and PNG on pixels that do not compress. */
const MAX_OVERHEAD = { share: 1.01, bytes: 64 * 1024 };

export interface Size {
  width: number;
  height: number;
}

/** The size of the largest PNG for a page: four bytes per pixel, without compression. */
export function maxPageBytes({ width, height }: Size): number {
  return Math.ceil(height * (4 * width + 1) * MAX_OVERHEAD.share) + MAX_OVERHEAD.bytes;
}

export function isPageSize({ width, height }: Size): boolean {
  return [width, height].every((side) => Number.isInteger(side) && side >= 1 && side <= MAX_SIDE);
}

/**
 * Passes the bytes of a page on, and throws RejectedOutput unless they are a complete PNG file of this size. It checks the
 * bytes that it passes, so that the file cannot change between check and copy.
 */
export async function* checkedPage(source: AsyncIterable<Buffer>, size: Size): AsyncGenerator<Buffer, void> {
  let head = Buffer.alloc(0);
  let tail = Buffer.alloc(0);
  for await (const chunk of source) {
    if (head.length < HEAD_BYTES) {
      head = Buffer.concat([head, chunk.subarray(0, HEAD_BYTES - head.length)]);
      if (head.length === HEAD_BYTES) checkHead(head, size);
    }
    tail = Buffer.concat([tail, chunk.subarray(-IEND.length)]).subarray(-IEND.length);
    yield chunk;
  }
  if (head.length < HEAD_BYTES || !tail.equals(IEND)) throw new RejectedOutput('a page is not a complete PNG file');
}

function checkHead(head: Buffer, { width, height }: Size): void {
  const [depth = 0, colorType = 0, compression, filter, interlace = 0] = head.subarray(24, 29);
  const isPng =
    head.subarray(0, 8).equals(SIGNATURE) &&
    head.subarray(8, 16).equals(IHDR) &&
    head.readUInt32BE(29) === crc32(head.subarray(12, 29)) &&
    DEPTHS[colorType]?.includes(depth) &&
    compression === 0 &&
    filter === 0 &&
    interlace <= 1;
  if (!isPng) throw new RejectedOutput('a page is not a PNG file');
  const [actualWidth, actualHeight] = [head.readUInt32BE(16), head.readUInt32BE(20)];
  if (actualWidth !== width || actualHeight !== height)
    throw new RejectedOutput(
      `a page has ${actualWidth} x ${actualHeight} pixels, and was reported with ${width} x ${height}`,
    );
}
