import { deflateRawSync, deflateSync, constants as zlib } from 'node:zlib';
import { PDFDocument } from 'pdf-lib';
import { pngChunk } from '../converter/render/encode-png.ts';

/** Small files that need much memory. */

interface EmbeddedImage {
  width: number;
  height: number;
  filter: 'FlateDecode' | 'DCTDecode' | 'JPXDecode';
  /** The input of the filter. */
  data: Buffer;
  colors?: 'DeviceRGB' | 'DeviceGray' | 'DeviceCMYK';
  bits?: number;
}

/** A PDF with a page of 600x400 points that an image fills. */
export async function pdfOfImage(image: EmbeddedImage): Promise<Buffer> {
  const { width, height, filter, data, colors = 'DeviceRGB', bits = 8 } = image;
  const document = await PDFDocument.create({ updateMetadata: false });
  const page = document.addPage([600, 400]);
  const stream = document.context.stream(data, {
    Type: 'XObject',
    Subtype: 'Image',
    Width: width,
    Height: height,
    ColorSpace: colors,
    BitsPerComponent: bits,
    Filter: filter,
  });
  const name = page.node.newXObject('Image', document.context.register(stream));
  const content = document.context.stream(`q 600 0 0 400 0 0 cm ${name} Do Q`);
  page.node.addContentStream(document.context.register(content));
  // Without object streams, as a simple writer leaves it.
  return Buffer.from(await document.save({ useObjectStreams: false }));
}

/** A black PNG with all of its rows, or with the first four for a test of its header. */
export function pngOfZeros(
  width: number,
  height: number,
  { depth = 8, rgb = true, interlaced = false, wholly = true } = {},
): Buffer {
  const rows = (across: number, down: number) => down * (1 + Math.ceil((across * depth * (rgb ? 3 : 1)) / 8));
  const passes = interlaced ? ADAM7 : [[0, 0, 1, 1] as const];
  const length = passes.reduce(
    (sum, [left, top, stepX, stepY]) =>
      sum + rows(Math.ceil((width - left) / stepX), Math.ceil((height - top) / stepY)),
    0,
  );
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, rgb ? 2 : 0, 0, 0, interlaced ? 1 : 0], 8);
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    ...pngChunk('IHDR', header),
    ...pngChunk('IDAT', wholly ? deflatedZeros(length) : deflateSync(Buffer.alloc(rows(width, 4)))),
    ...pngChunk('IEND', Buffer.alloc(0)),
  ]);
}

/** Zeros as zlib compresses them. One compressed block is repeated, so that gigabytes are never in memory. */
export function deflatedZeros(length: number): Buffer {
  const size = 2 ** 24;
  const block = deflateRawSync(Buffer.alloc(size), { level: 9, finishFlush: zlib.Z_FULL_FLUSH });
  const checksum = Buffer.alloc(4);
  // Adler-32 of zeros: one sum stays 1, the other counts them.
  checksum.writeUInt32BE((length % 65_521) * 2 ** 16 + 1);
  return Buffer.concat([
    Buffer.from([0x78, 0x9c]),
    ...Array<Buffer>(Math.floor(length / size)).fill(block),
    deflateRawSync(Buffer.alloc(length % size), { level: 9 }),
    checksum,
  ]);
}

/** The start and the steps of each pass of an interlaced PNG: left, top, across, down. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;
