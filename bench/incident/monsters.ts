import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { crc32, deflateRawSync, constants as zlib } from 'node:zlib';
import sharp from 'sharp';
import { makePdf, RED, writePdf } from '../../test/support/files.ts';

const run = promisify(execFile);

/** Files that ate the memory of a worker. Gives their paths by what they are; `signal` ends the helper program. */
export async function makeMonsters(folder: string, signal: AbortSignal): Promise<Record<string, string>> {
  const write = async (name: string, bytes: Uint8Array) => {
    const file = path.join(folder, name);
    await writeFile(file, bytes);
    return file;
  };
  const interlaced = path.join(folder, 'interlaced.png');
  await drawScene(20_000, 10_000).png({ progressive: true }).toFile(interlaced);
  signal.throwIfAborted();
  const progressive = path.join(folder, 'progressive.jpg');
  await drawScene(15_000, 10_000).jpeg({ progressive: true }).toFile(progressive);
  signal.throwIfAborted();
  const { filter, file: picture } = await encodePicture(folder, progressive, signal);
  return {
    'PNG bomb of 225,000 x 225,000, 1 bit': await write(
      'bomb-far.png',
      pngOfZeros(225_000, 225_000, { depth: 1, rgb: false }),
    ),
    'PNG bomb of 30,000 x 30,000, RGB': await write(
      'bomb-near.png',
      pngOfZeros(30_000, 30_000, { depth: 8, rgb: true }),
    ),
    'interlaced PNG of 200 megapixels': interlaced,
    'progressive JPEG of 150 megapixels': progressive,
    [`PDF with a ${filter === 'JPXDecode' ? 'JPX' : 'JPEG (no vips here to make JPX)'} of 150 megapixels`]: await write(
      'picture.pdf',
      pdfOfPicture(await readFile(picture), filter, 15_000, 10_000),
    ),
    'PDF with a box of 12,000 points': await write(
      'box.pdf',
      await makePdf([{ width: 12_000, height: 12_000, color: RED }]),
    ),
  };
}

/** Mostly flat, so that it is small as a file. */
function drawScene(width: number, height: number) {
  const boxes = Array.from(
    { length: 12 },
    (_, at) =>
      `<rect x="${at * 150}" y="${(at * 370) % 1000}" width="280" height="110" fill="hsl(${at * 40},70%,60%)"/>`,
  );
  const picture = Buffer.from(`<svg width="2000" height="1200">${boxes.join('')}</svg>`);
  return sharp({ create: { width, height, channels: 3, background: '#eee' } }).composite([{ input: picture }]);
}

/** As JPEG 2000, which sharp cannot write; where the vips program is missing, the JPEG must do. */
async function encodePicture(folder: string, jpeg: string, signal: AbortSignal) {
  const file = path.join(folder, 'picture.jp2');
  try {
    await run('vips', ['jp2ksave', jpeg, file], { signal });
    return { filter: 'JPXDecode', file };
  } catch {
    signal.throwIfAborted();
    return { filter: 'DCTDecode', file: jpeg };
  }
}

function pdfOfPicture(picture: Buffer, filter: string, width: number, height: number): Buffer {
  const draw = 'q 600 0 0 400 0 0 cm /Im0 Do Q';
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 400] /Contents 4 0 R /Resources << /XObject << /Im0 5 0 R >> >> >>',
      `<< /Length ${draw.length} >>\nstream\n${draw}\nendstream`,
      `<< /Type /XObject /Subtype /Image /Width ${width} /Height ${height} /ColorSpace /DeviceRGB /BitsPerComponent 8 ` +
        `/Filter /${filter} /Length ${picture.length} >>\nstream\n${picture.toString('latin1')}\nendstream`,
    ],
    '',
  );
}

/** A complete PNG of one colour. One deflated block is repeated: gigabytes of zeros need never be there. */
function pngOfZeros(width: number, height: number, { depth, rgb }: { depth: number; rgb: boolean }): Buffer {
  const length = height * (1 + Math.ceil((width * depth * (rgb ? 3 : 1)) / 8));
  const size = 2 ** 24;
  const flush = { level: 9, finishFlush: zlib.Z_FULL_FLUSH };
  const block = deflateRawSync(Buffer.alloc(size), flush);
  const checksum = Buffer.alloc(4);
  // Adler-32 of zeros: one sum stays 1, the other counts them.
  checksum.writeUInt32BE((length % 65_521) * 2 ** 16 + 1);
  const data = Buffer.concat([
    Buffer.from([0x78, 0x9c]),
    ...Array<Buffer>(Math.floor(length / size)).fill(block),
    deflateRawSync(Buffer.alloc(length % size), { level: 9 }),
    checksum,
  ]);
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, rgb ? 2 : 0], 8);
  const signature = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))]);
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}
