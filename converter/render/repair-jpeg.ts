import { type CutFile, MIN_SHARE, type RepairedImage } from './cut-file.ts';
import { END_OF_IMAGE, isFrame, RESTART, START_OF_SCAN, segmentsOf } from './jpeg-segments.ts';
import { sharp } from './libvips.ts';

interface Size {
  width: number;
  height: number;
}

/** The two decoded copies are compared at this size. */
const MAX_PROBE: Size = { width: 512, height: 3499 };
/** Each run of filler is longer than a block of any JPEG. */
const FILLER_RUNS = 24;
const FILLER_RUN_BYTES = 500;
const END = Buffer.from([0xff, END_OF_IMAGE]);

/**
 * libjpeg does not report where the data ended. So the picture is decoded twice, with an end marker and with filler after
 * the data: rows that are the same in both do not depend on the missing data.
 */
export async function repairJpeg(file: CutFile, size: Size): Promise<RepairedImage | null> {
  const end = endWithoutHalfMarker(file);
  if (!hasAllScans(file.head(end))) return null;
  const withFiller = await probe(file.withTail(end, Buffer.concat([createFiller(), END])), size);
  const repaired = file.withTail(end, END);
  const withoutFiller = await probe(repaired, size);
  const { rows, equalRows } = compareRows(withoutFiller, withFiller);
  return equalRows > rows * MIN_SHARE ? { data: repaired, failOn: 'error' } : null;
}

/** The first byte of a marker without its second byte would join with the bytes after it. */
function endWithoutHalfMarker(file: CutFile): number {
  const data = file.head(file.size);
  let end = data.length;
  while (end > 0 && data[end - 1] === 0xff) end--;
  return end;
}

interface Probe {
  data: Buffer;
  height: number;
}

async function probe(jpeg: Buffer, { width, height }: Size): Promise<Probe> {
  const size = { width: Math.min(width, MAX_PROBE.width), height: Math.min(height, MAX_PROBE.height) };
  const data = await sharp(jpeg, { failOn: 'none', limitInputPixels: false, sequentialRead: true })
    .resize({ ...size, fit: 'fill', kernel: 'nearest' })
    .raw()
    .toBuffer();
  return { data, height: size.height };
}

function compareRows(one: Probe, other: Probe): { rows: number; equalRows: number } {
  const rowBytes = one.data.length / one.height;
  const rowOf = ({ data }: Probe, row: number) => data.subarray(row * rowBytes, (row + 1) * rowBytes);
  let equalRows = 0;
  while (equalRows < one.height && rowOf(one, equalRows).equals(rowOf(other, equalRows))) equalRows++;
  return { rows: one.height, equalRows };
}

/** Data that fits any JPEG: the restart marker for which the decoder waits comes soon. */
function createFiller(): Buffer {
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

/** True when the scans of every coefficient of every component have begun, down to the last bit. */
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
    // The low half byte is the number of bits that later scans add.
    if (((jpeg[parameters + 2] ?? 0) & 0x0f) !== 0) continue;
    for (let component = 0; component < count; component++) {
      const id = jpeg[at + 3 + component * 2];
      for (let k = jpeg[parameters] ?? 0; k <= (jpeg[parameters + 1] ?? 0); k++) missing.delete(`${id} ${k}`);
    }
  }
  return isFrameSeen && missing.size === 0;
}
