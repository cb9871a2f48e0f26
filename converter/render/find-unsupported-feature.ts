import { open } from 'node:fs/promises';
import { isFrame, segmentsOf } from './jpeg-segments.ts';

/** The frame header may follow a colour profile and a preview image, each of several segments. */
const MAX_SEARCHED_BYTES = 8 * 2 ** 20;
/** The position of the name of the first chunk of a PNG file. */
const FIRST_CHUNK_NAME = 12;

const JPEG_SIGNATURE = 0xffd8;
/** JPEG-LS has another frame marker. */
const JPEG_LS = 0xf7;
const PROCESSES: Record<number, string> = {
  195: 'lossless JPEG',
  197: 'hierarchical JPEG',
  198: 'hierarchical JPEG',
  199: 'hierarchical JPEG',
  201: 'arithmetic-coded JPEG',
  202: 'arithmetic-coded JPEG',
  203: 'lossless JPEG',
  205: 'hierarchical JPEG',
  206: 'hierarchical JPEG',
  207: 'hierarchical JPEG',
};

/** The feature that a PNG or JPEG file needs and sharp lacks; null for a file whose failure has another reason. */
export async function findUnsupportedFeature(file: string): Promise<string | null> {
  const start = await readStart(file);
  if (start.toString('latin1', FIRST_CHUNK_NAME, FIRST_CHUNK_NAME + 4) === 'CgBI') return 'Apple CgBI PNG';
  if (start.length < 2 || start.readUInt16BE(0) !== JPEG_SIGNATURE) return null;
  for (const { marker, at } of segmentsOf(start)) {
    if (marker === JPEG_LS) return 'JPEG-LS';
    if (isFrame(marker)) return frameFeature(marker, start.subarray(at));
  }
  return null;
}

function frameFeature(marker: number, frame: Buffer): string | null {
  const process = PROCESSES[marker];
  if (process !== undefined || frame.length < 8) return process ?? null;
  const precision = frame.readUInt8(2);
  if (precision === 12) return '12-bit JPEG';
  return frame.readUInt16BE(3) === 0 ? 'JPEG without a height in its header' : null;
}

async function readStart(file: string): Promise<Buffer> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const start = Buffer.alloc(Math.min(size, MAX_SEARCHED_BYTES));
    const { bytesRead } = await handle.read(start, 0, start.length, 0);
    return start.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
