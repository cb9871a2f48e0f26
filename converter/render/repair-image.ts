import { open } from 'node:fs/promises';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, crc32, createInflate } from 'node:zlib';
import { isOutOfMemory } from '../../runtime/errors.ts';
import { pngChunk } from './encode-png.ts';
import { END_OF_IMAGE, isFrame, RESTART, START_OF_SCAN, segmentsOf } from './jpeg-segments.ts';
import { sharp } from './libvips.ts';

/** Completes images that were cut short, if more than MIN_SHARE of their rows are there. */

interface StoredImage {
  format: 'jpeg' | 'png';
  width: number;
  height: number;
}

/** A file that decodes, whose missing rows come out grey (JPEG) or black (PNG). */
export interface RepairedImage {
  data: Buffer;
  /** How much damage sharp must accept. */
  failOn: 'none' | 'error';
}

const MIN_SHARE = 0.95;
/** Two decoded copies of a JPEG are compared at this size. */
const MAX_PROBE = { width: 512, height: 3499 };
/** Each run of made-up bytes is longer than a block of any JPEG. */
const FILLER_RUNS = 24;
const FILLER_RUN_BYTES = 500;
/** Made-up data and an end marker need the most. */
const ROOM_BYTES = FILLER_RUNS * FILLER_RUN_BYTES + 64;

const END = Buffer.from([0xff, END_OF_IMAGE]);

const PNG_SIGNATURE_BYTES = 8;
/** Around the data of a PNG chunk stand its length and name, and its checksum. */
const CHUNK_HEAD_BYTES = 8;
const CHUNK_TAIL_BYTES = 4;
const PNG_CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

/** Gives null for a file that lacks more than its end. */
export async function repairImage(file: string, header: StoredImage): Promise<RepairedImage | null> {
  const { data, size } = await readWithRoom(file);
  return header.format === 'jpeg' ? repairJpeg(data, size, header) : repairPng(data, size);
}

/** Room behind the file for what is appended: a file is too large to be copied. */
async function readWithRoom(file: string): Promise<{ data: Buffer; size: number }> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const data = Buffer.alloc(size + ROOM_BYTES);
    const { bytesRead } = await handle.read(data, 0, size, 0);
    return { data, size: bytesRead };
  } finally {
    await handle.close();
  }
}

/**
 * libjpeg does not say where it ran out of data. The picture is decoded with nothing behind the data and with made-up
 * data behind it: rows that come out the same do not depend on what is missing.
 */
async function repairJpeg(data: Buffer, size: number, header: StoredImage): Promise<RepairedImage | null> {
  let end = size;
  // The first byte of a marker whose second byte is missing would join with what is put behind it.
  while (end > 0 && data[end - 1] === 0xff) end--;
  if (!hasAllScans(data.subarray(0, end))) return null;
  const second = await probe(append(data, end, Buffer.concat([madeUpData(), END])), header);
  const repaired = append(data, end, END);
  const first = await probe(repaired, header);
  const rowBytes = first.data.length / first.height;
  let same = 0;
  while (same < first.height && rowOf(first.data, same).equals(rowOf(second.data, same))) same++;
  return same > first.height * MIN_SHARE ? { data: repaired, failOn: 'error' } : null;

  function rowOf(pixels: Buffer, row: number): Buffer {
    return pixels.subarray(row * rowBytes, (row + 1) * rowBytes);
  }
}

/** Puts bytes into the room behind the data, and gives both. */
function append(data: Buffer, end: number, bytes: Buffer): Buffer {
  bytes.copy(data, end);
  return data.subarray(0, end + bytes.length);
}

async function probe(jpeg: Buffer, { width, height }: StoredImage): Promise<{ data: Buffer; height: number }> {
  const size = { width: Math.min(width, MAX_PROBE.width), height: Math.min(height, MAX_PROBE.height) };
  const image = sharp(jpeg, { failOn: 'none', limitInputPixels: false, sequentialRead: true });
  const data = await image
    .resize({ ...size, fit: 'fill', kernel: 'nearest' })
    .raw()
    .toBuffer();
  return { data, height: size.height };
}

/** Data that fits anywhere: whatever restart marker the decoder waits for comes up soon. */
function madeUpData(): Buffer {
  const filler = Buffer.alloc(FILLER_RUNS * FILLER_RUN_BYTES);
  let state = 1;
  for (let at = 0; at < filler.length; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    filler[at] = (state >>> 16) % 0xff;
  }
  for (let run = 1; run <= FILLER_RUNS; run++) {
    filler.set([0xff, RESTART + ((run - 1) % 8)], run * FILLER_RUN_BYTES - 2);
  }
  return filler;
}

/** True when scans of every coefficient of every component, down to the last bit, have at least begun. */
function hasAllScans(jpeg: Buffer): boolean {
  const missing = new Set<string>();
  let isFrameSeen = false;
  for (const { marker, at } of segmentsOf(jpeg)) {
    if (isFrame(marker)) {
      isFrameSeen = true;
      for (let component = 0; component < (jpeg[at + 7] ?? 0); component++) {
        for (let k = 0; k < 64; k++) missing.add(`${jpeg[at + 8 + component * 3]} ${k}`);
      }
    }
    if (marker !== START_OF_SCAN) continue;
    const count = jpeg[at + 2] ?? 0;
    const parameters = at + 3 + count * 2;
    // The low half byte is how many bits are still to come.
    if (((jpeg[parameters + 2] ?? 0) & 0x0f) !== 0) continue;
    for (let component = 0; component < count; component++) {
      const id = jpeg[at + 3 + component * 2];
      for (let k = jpeg[parameters] ?? 0; k <= (jpeg[parameters + 1] ?? 0); k++) missing.delete(`${id} ${k}`);
    }
  }
  return isFrameSeen && missing.size === 0;
}

/** Keeps the image data that is there, and says how long it is: libpng discards a chunk whose end is missing. */
async function repairPng(data: Buffer, size: number): Promise<RepairedImage | null> {
  const chunks = [...soundChunks(data.subarray(0, size))];
  const header = chunks.find(({ name }) => name === 'IHDR')?.content;
  const last = chunks.at(-1);
  if (header?.length !== 13 || last === undefined) return null;
  const height = header.readUInt32BE(4);
  const rowBytes = Math.ceil(
    (header.readUInt32BE(0) * header.readUInt8(8) * (PNG_CHANNELS[header.readUInt8(9)] ?? 0)) / 8,
  );
  const isInterlaced = header.readUInt8(12) !== 0;
  const inflated = await inflatedLength(chunks.flatMap(({ name, content }) => (name === 'IDAT' ? [content] : [])));
  const rows = Math.floor(inflated / (rowBytes + 1));
  // An interlaced picture lacks pixels all over, and libvips refuses it.
  if (isInterlaced || rowBytes === 0 || rows <= height * MIN_SHARE) return null;
  const tail = Buffer.concat([...pngChunk(last.name, last.content).slice(-1), ...pngChunk('IEND', Buffer.alloc(0))]);
  data.writeUInt32BE(last.content.length, last.at);
  return { data: append(data, last.at + CHUNK_HEAD_BYTES + last.content.length, tail), failOn: 'none' };
}

/** The chunks before the first that is damaged. The last one may be cut, and has no checksum then. */
function* soundChunks(png: Buffer): Generator<{ name: string; at: number; content: Buffer }> {
  for (let at = PNG_SIGNATURE_BYTES; at + CHUNK_HEAD_BYTES < png.length; ) {
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

/** How many bytes come out before the data ends or is damaged. */
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
    // Damaged data yields what was counted until here.
  }
  return length;
}
