import { crc32, deflateRawSync, deflateSync, constants as zlib } from 'node:zlib';
import { writePdf } from './files.ts';

/** Files that are small and want much. */

/** A page of 600x400 points that is filled by an image; `data` is what `filter` decodes. */
export function pdfOfImage({
  width,
  height,
  filter,
  data,
  colors = 'DeviceRGB',
  bits = 8,
}: {
  width: number;
  height: number;
  filter: 'FlateDecode' | 'DCTDecode' | 'JPXDecode';
  data: Buffer;
  colors?: 'DeviceRGB' | 'DeviceGray' | 'DeviceCMYK';
  bits?: number;
}): Buffer {
  const draw = 'q 600 0 0 400 0 0 cm /Im0 Do Q';
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 400] /Contents 4 0 R /Resources << /XObject << /Im0 5 0 R >> >> >>',
      `<< /Length ${draw.length} >>\nstream\n${draw}\nendstream`,
      `<< /Type /XObject /Subtype /Image /Width ${width} /Height ${height} /ColorSpace /${colors} /BitsPerComponent ${bits} ` +
        `/Filter /${filter} /Length ${data.length} >>\nstream\n${data.toString('latin1')}\nendstream`,
    ],
    '',
  );
}

/** A black PNG: all of its rows, or, where its header should be enough, the first few. */
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
    pngChunk('IHDR', header),
    pngChunk('IDAT', wholly ? deflatedZeros(length) : deflateSync(Buffer.alloc(rows(width, 4)))),
    pngChunk('IEND', Buffer.alloc(0)),
  ]);
}

/** So many zeros as zlib writes them. One deflated block is repeated: gigabytes of them need never be there. */
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

export function pngChunk(type: string, ...data: Buffer[]): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), ...data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(body.length - 4, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

/** Start and steps of each pass of an interlaced PNG: left, top, across, down. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;
