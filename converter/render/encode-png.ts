import { pipeline } from 'node:stream/promises';
import { constants, crc32, createDeflate, deflateSync, type ZlibOptions } from 'node:zlib';
import { sharp } from './libvips.ts';
import { type PackedPixels, packPage, recycle } from './pack-pixels.ts';

/** Pixels row by row from the top: grey, RGB, or RGBX, whose fourth byte is ignored. */
export interface RawPixels {
  data: Uint8Array;
  width: number;
  height: number;
  channels: 1 | 3 | 4;
}

type Filter = typeof NONE | typeof UP;

const SIGNATURE = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
const GREY = 0;
const RGB = 2;
/** The PNG filters of rows: bytes as they are, or minus those of the row above. */
const NONE = 0;
const UP = 2;

/** For drawings, for which filters gain nothing. Level 2 is a few per cent larger than level 6 at half the time. */
export const UNFILTERED = { compressionLevel: 2, adaptiveFiltering: false } as const;
/** The search for repeats pays off in a filtered scan, not in a filtered photograph. The largest hash table is the fastest. */
const FILTERED_SCAN = { level: 1, memLevel: constants.Z_MAX_MEMLEVEL, chunkSize: 256 * 1024 } as const;
const FILTERED_PHOTOGRAPH = { ...FILTERED_SCAN, strategy: constants.Z_RLE } as const;
/** Each band costs a round trip to a thread. */
const BAND_BYTES = 1024 * 1024;
/** Rows at this many positions are compressed in each way to choose one. */
const SAMPLES = 3;
const SAMPLE_ROWS = 4;
/** Rows that compress to less than this share belong to a drawing or a scan of text, which a filter hardly helps. */
const MIN_FILTERED_SHARE = 0.25;
/** A faster way is chosen if it adds at most this share of bytes. */
const MAX_EXTRA = { photograph: 0.1, unfiltered: 0.2 };
/** Pixels that compress to more than this share are encoded in parts, because sharp keeps the whole file in a buffer that doubles. */
const MAX_BUFFERED_SHARE = 0.5;

/**
 * Encodes pixels as a PNG file (https://www.w3.org/TR/png-3/) and returns its parts. A drawn page (RGBX) gets the fewest
 * bits per pixel that hold its colours. All rows have the same filter: libpng tries five for each row, which takes longer
 * than all other work.
 */
export async function encodePng(raw: RawPixels): Promise<Buffer[]> {
  const { width, height, channels } = raw;
  const packed = channels === 4 ? packPage(raw.data, width, height) : packBytes(raw.data, width, channels);
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([packed.bitDepth, packed.colorType], 8);
  const parts = [SIGNATURE, ...pngChunk('IHDR', header)];
  if (packed.palette) parts.push(...pngChunk('PLTE', packed.palette));
  const options = chooseFiltered(packed, height);
  const data = options ? await encodeFiltered(packed, height, options) : await encodeUnfiltered(packed, height);
  if (channels === 4) recycle(packed);
  return [...parts, ...data, ...pngChunk('IEND', Buffer.alloc(0))];
}

/** The options to compress filtered rows; null when the pixels compress better without a filter. */
function chooseFiltered(packed: PackedPixels, height: number): ZlibOptions | null {
  // Differences of palette indexes or of packed bits have no meaning.
  if (packed.palette || packed.bitDepth === 1) return null;
  const tops = Array.from({ length: SAMPLES }, (_, index) => Math.floor((height * (index + 1)) / (SAMPLES + 1)));
  const sampleWith = (filter: Filter) =>
    Buffer.concat(tops.map((top) => filterRows(packed, top, Math.min(height, top + SAMPLE_ROWS), filter)));
  const unfiltered = sampleWith(NONE);
  const plain = deflateSync(unfiltered, { level: 1 }).length;
  if (plain < unfiltered.length * MIN_FILTERED_SHARE) return null;
  const filtered = sampleWith(UP);
  const scan = deflateSync(filtered, { level: 1 }).length;
  const photograph = deflateSync(filtered, { level: 1, strategy: constants.Z_RLE }).length;
  if (photograph <= Math.min(scan, plain) * (1 + MAX_EXTRA.photograph)) return FILTERED_PHOTOGRAPH;
  const isBuffered = plain <= unfiltered.length * MAX_BUFFERED_SHARE;
  return isBuffered && plain <= scan * (1 + MAX_EXTRA.unfiltered) ? null : FILTERED_SCAN;
}

/** libvips compresses 20% faster than Node's zlib. The rows are given as an image of bytes, and only its data is used. */
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

async function encodeFiltered(packed: PackedPixels, height: number, options: ZlibOptions): Promise<Buffer[]> {
  const chunks: Buffer[] = [];
  await pipeline(filteredBands(packed, height), createDeflate(options), async (compressed: AsyncIterable<Buffer>) => {
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

/** The rows from `top` up to `end`, each after the number of its filter. */
function filterRows({ data, rowBytes }: PackedPixels, top: number, end: number, filter: Filter): Buffer {
  const band = Buffer.allocUnsafe((end - top) * (rowBytes + 1));
  const rowOf = (row: number) => data.subarray(row * rowBytes, (row + 1) * rowBytes);
  const words = Math.ceil(rowBytes / 4);
  let [above, current] = [new Int32Array(words), new Int32Array(words)];
  if (top > 0) bytesOf(above).set(rowOf(top - 1));
  let to = 0;
  for (let row = top; row < end; row++) {
    // The first row has no row above.
    const isFiltered = filter === UP && row > 0;
    band[to++] = isFiltered ? UP : NONE;
    if (isFiltered) {
      bytesOf(current).set(rowOf(row));
      subtractBytes(current, above);
      band.set(bytesOf(above).subarray(0, rowBytes), to);
      [above, current] = [current, above];
    } else {
      band.set(rowOf(row), to);
      bytesOf(above).set(rowOf(row));
    }
    to += rowBytes;
  }
  return band;
}

function bytesOf(words: Int32Array): Uint8Array {
  return new Uint8Array(words.buffer);
}

/** Writes `current` minus `above` to `above`, four bytes at a time, without a borrow between bytes. */
function subtractBytes(current: Int32Array, above: Int32Array): void {
  for (let at = 0; at < current.length; at++) {
    const x = current[at] ?? 0;
    const y = above[at] ?? 0;
    above[at] = (((x | 0x80808080) - (y & 0x7f7f7f7f)) | 0) ^ ((x ^ ~y) & 0x80808080);
  }
}

/** Pixels that a PNG file stores as they are. */
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
