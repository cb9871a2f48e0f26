import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, crc32, createInflate } from 'node:zlib';
import { isOutOfMemory } from '../../runtime/errors.ts';
import { type CutFile, MIN_SHARE, type RepairedImage } from './cut-file.ts';
import { pngChunk } from './encode-png.ts';

const SIGNATURE_BYTES = 8;
/** A PNG chunk has its length and name before its data, and a checksum after it. */
const CHUNK_HEAD_BYTES = 8;
const CHUNK_TAIL_BYTES = 4;
const CHANNELS_BY_COLOR_TYPE: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

interface Chunk {
  name: string;
  at: number;
  content: Buffer;
}

/** Keeps the image data that is there, and corrects its length: libpng discards a chunk whose end is missing. */
export async function repairPng(file: CutFile): Promise<RepairedImage | null> {
  const chunks = [...soundChunks(file.head(file.size))];
  const header = chunks.find(({ name }) => name === 'IHDR')?.content;
  const last = chunks.at(-1);
  if (header?.length !== 13 || last === undefined || !(await hasNearlyAllRows(header, chunks))) return null;
  const tail = Buffer.concat([...pngChunk(last.name, last.content).slice(-1), ...pngChunk('IEND', Buffer.alloc(0))]);
  file.overwrite(last.at, last.content.length);
  return { data: file.withTail(last.at + CHUNK_HEAD_BYTES + last.content.length, tail), failOn: 'none' };
}

async function hasNearlyAllRows(header: Buffer, chunks: Chunk[]): Promise<boolean> {
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const channels = CHANNELS_BY_COLOR_TYPE[header.readUInt8(9)] ?? 0;
  const rowBytes = Math.ceil((width * header.readUInt8(8) * channels) / 8);
  const isInterlaced = header.readUInt8(12) !== 0;
  // An interlaced picture lacks pixels in all places, and libvips refuses it.
  if (isInterlaced || rowBytes === 0) return false;
  const inflated = await inflatedLength(chunks.flatMap(({ name, content }) => (name === 'IDAT' ? [content] : [])));
  return Math.floor(inflated / (rowBytes + 1)) > height * MIN_SHARE;
}

/** The chunks before the first damaged one. The last one may be cut, and then has no checksum. */
function* soundChunks(png: Buffer): Generator<Chunk> {
  for (let at = SIGNATURE_BYTES; at + CHUNK_HEAD_BYTES < png.length; ) {
    const start = at + CHUNK_HEAD_BYTES;
    const end = start + png.readUInt32BE(at);
    const name = png.toString('latin1', at + 4, start);
    const isWhole = end + CHUNK_TAIL_BYTES <= png.length;
    const isSound = isWhole ? crc32(png.subarray(at + 4, end)) === png.readUInt32BE(end) : name === 'IDAT';
    if (name === 'IEND' || !isSound) return;
    yield { name, at, content: png.subarray(start, end) };
    at = end + CHUNK_TAIL_BYTES;
  }
}

/** The number of bytes before the data ends or is damaged. */
async function inflatedLength(parts: Buffer[]): Promise<number> {
  let length = 0;
  const count = new Writable({
    write(bytes: Buffer, _, done) {
      length += bytes.length;
      done();
    },
  });
  try {
    await pipeline(parts, createInflate({ finishFlush: constants.Z_SYNC_FLUSH }), count);
  } catch (cause) {
    if (isOutOfMemory(cause)) throw cause;
    // The bytes before the damage count.
  }
  return length;
}
