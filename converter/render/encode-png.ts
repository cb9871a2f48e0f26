import { pipeline } from 'node:stream/promises';
import { crc32, createDeflate } from 'node:zlib';

const SIGNATURE = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
const RGB = 2;
/** Filters of rows: as it is, or less the row above. */
const NONE = 0;
const UP = 2;

/** Higher levels take longer, and save 3% of a photograph. */
const LEVEL = 1;
/** So much is filtered and compressed at a time. */
const BAND_BYTES = 256 * 1024;

/**
 * Encodes a photograph, 8-bit RGB row by row from the top, as a PNG file (https://www.w3.org/TR/png-3/), in parts. Each row is
 * stored less the one above it. libpng, which sharp calls, tries five filters for each row, and that takes longer than all else.
 */
export async function encodePhotograph(pixels: Uint8Array, width: number, height: number): Promise<Buffer[]> {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, RGB], 8);
  const parts = [SIGNATURE, ...chunk('IHDR', header)];
  const deflate = createDeflate({ level: LEVEL, chunkSize: BAND_BYTES });
  await pipeline(filteredBands(pixels, width * 3), deflate, async (compressed: AsyncIterable<Buffer>) => {
    for await (const data of compressed) parts.push(...chunk('IDAT', data));
  });
  return [...parts, ...chunk('IEND', Buffer.alloc(0))];
}

function* filteredBands(pixels: Uint8Array, rowBytes: number): Generator<Buffer> {
  const bandRows = Math.max(1, Math.floor(BAND_BYTES / rowBytes));
  for (let top = 0; top < pixels.length; top += bandRows * rowBytes) {
    const end = Math.min(pixels.length, top + bandRows * rowBytes);
    const band = Buffer.allocUnsafe(end - top + (end - top) / rowBytes);
    let to = 0;
    for (let row = top; row < end; row += rowBytes) {
      // Nothing is above the first.
      band[to++] = row === 0 ? NONE : UP;
      if (row === 0) {
        band.set(pixels.subarray(0, rowBytes), to);
        to += rowBytes;
        continue;
      }
      for (let at = row; at < row + rowBytes; at++) {
        band[to++] = (pixels[at] as number) - (pixels[at - rowBytes] as number);
      }
    }
    yield band;
  }
}

function chunk(name: string, data: Buffer): Buffer[] {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(data.length);
  head.write(name, 4, 'latin1');
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(crc32(data, crc32(name)));
  return [head, data, tail];
}
