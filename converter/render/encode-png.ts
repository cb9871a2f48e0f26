import { pipeline } from 'node:stream/promises';
import { constants, crc32, createDeflate, deflateSync } from 'node:zlib';
import { sharp } from './libvips.ts';
import { type PackedPixels, packPage } from './pack-pixels.ts';

/** Pixels row by row from the top: grey, RGB, or RGBX, whose fourth byte is ignored. */
export interface RawPixels {
  data: Uint8Array;
  width: number;
  height: number;
  channels: 1 | 3 | 4;
}

const SIGNATURE = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
const GREY = 0;
const RGB = 2;
/** The PNG filters of rows: bytes as they are, or minus those of the row above. */
const NONE = 0;
const UP = 2;

/** Level 2 is a few per cent larger than level 6 at half the time. */
const UNFILTERED = { compressionLevel: 2, adaptiveFiltering: false } as const;
/** Level 2 saves 3% of a photograph. The largest hash table of zlib is the fastest. */
const FILTERED = { level: 1, memLevel: constants.Z_MAX_MEMLEVEL, chunkSize: 256 * 1024 } as const;
/** Each band costs a round trip to a thread. */
const BAND_BYTES = 1024 * 1024;
/** Rows in so many places are compressed with each filter to choose one. */
const SAMPLES = 3;
const SAMPLE_ROWS = 4;
/** Filtering takes half as long again, so it must save at least this share. */
const MIN_SAVING = 0.15;
/** Pixels that compress less than this are encoded in parts, because sharp keeps the whole file in a buffer that doubles. */
const MAX_BUFFERED_SHARE = 0.5;

/**
 * Encodes pixels as a PNG file (https://www.w3.org/TR/png-3/), in parts. A drawn page (RGBX) gets the fewest bits per pixel
 * that hold its colours. All rows have one filter: libpng tries five for each row, and that takes longer than all else.
 */
export async function encodePng({ data, width, height, channels }: RawPixels): Promise<Buffer[]> {
  const packed = channels === 4 ? packPage(data, width, height) : packBytes(data, width, channels);
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([packed.bitDepth, packed.colorType], 8);
  const parts = [SIGNATURE, ...pngChunk('IHDR', header)];
  if (packed.palette) parts.push(...pngChunk('PLTE', packed.palette));
  const encodeRows = shouldFilter(packed, height) ? encodeFiltered : encodeUnfiltered;
  return [...parts, ...(await encodeRows(packed, height)), ...pngChunk('IEND', Buffer.alloc(0))];
}

/** Photographs become much smaller with the filter. Drawings and noisy scans do not. */
function shouldFilter(packed: PackedPixels, height: number): boolean {
  // Indexes into a palette and bits in a byte are no numbers to subtract.
  if (packed.palette || packed.bitDepth === 1) return false;
  const samples = Array.from({ length: SAMPLES }, (_, index) => Math.floor((height * (index + 1)) / (SAMPLES + 1)));
  const sampleWith = (filter: typeof NONE | typeof UP) =>
    Buffer.concat(samples.map((top) => filterRows(packed, top, Math.min(height, top + SAMPLE_ROWS), filter)));
  const unfiltered = sampleWith(NONE);
  const plain = deflateSync(unfiltered, { level: 1 }).length;
  const filtered = deflateSync(sampleWith(UP), { level: 1 }).length;
  return filtered < plain * (1 - MIN_SAVING) || plain > unfiltered.length * MAX_BUFFERED_SHARE;
}

/** libvips compresses 20% faster than Node's zlib. It sees an image of bytes, and its header is left behind. */
async function encodeUnfiltered({ data, rowBytes, colorType }: PackedPixels, height: number): Promise<Buffer[]> {
  const channels = colorType === RGB ? 3 : 1;
  const image = sharp(data, { raw: { width: rowBytes / channels, height, channels } });
  if (channels === 1) image.toColourspace('b-w');
  return imageDataOf(await image.png(UNFILTERED).toBuffer());
}

function imageDataOf(png: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = SIGNATURE.length; at < png.length; ) {
    const end = at + 12 + png.readUInt32BE(at);
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT') chunks.push(png.subarray(at, end));
    at = end;
  }
  return chunks;
}

async function encodeFiltered(packed: PackedPixels, height: number): Promise<Buffer[]> {
  const chunks: Buffer[] = [];
  await pipeline(filteredBands(packed, height), createDeflate(FILTERED), async (compressed: AsyncIterable<Buffer>) => {
    for await (const data of compressed) chunks.push(...pngChunk('IDAT', data));
  });
  return chunks;
}

function* filteredBands(packed: PackedPixels, height: number): Generator<Buffer> {
  const bandRows = Math.max(1, Math.floor(BAND_BYTES / packed.rowBytes));
  for (let top = 0; top < height; top += bandRows) {
    yield filterRows(packed, top, Math.min(height, top + bandRows), UP);
  }
}

/** The rows from `top` to before `end`, each behind the number of its filter. */
function filterRows(
  { data, rowBytes }: PackedPixels,
  top: number,
  end: number,
  filter: typeof NONE | typeof UP,
): Buffer {
  const band = Buffer.allocUnsafe((end - top) * (rowBytes + 1));
  let to = 0;
  for (let row = top; row < end; row++) {
    const from = row * rowBytes;
    // The first row has none above it.
    const isFiltered = filter === UP && row > 0;
    band[to++] = isFiltered ? UP : NONE;
    if (!isFiltered) band.set(data.subarray(from, from + rowBytes), to);
    else
      for (let at = 0; at < rowBytes; at++) band[to + at] = (data[from + at] ?? 0) - (data[from + at - rowBytes] ?? 0);
    to += rowBytes;
  }
  return band;
}

/** Pixels that are in the form of a PNG file already. */
function packBytes(data: Uint8Array, width: number, channels: 1 | 3): PackedPixels {
  const colorType = channels === 1 ? GREY : RGB;
  return { colorType, bitDepth: 8, palette: null, data, rowBytes: width * channels };
}

/** A chunk of a PNG file: length, name, data and checksum. */
export function pngChunk(name: string, data: Uint8Array): Buffer[] {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(data.length);
  head.write(name, 4, 'latin1');
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(crc32(data, crc32(name)));
  return [head, Buffer.from(data.buffer, data.byteOffset, data.length), tail];
}
