import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { PDFDocument, rgb } from 'pdf-lib';
import sharp from 'sharp';
import { pdfOfImage, pngOfZeros } from '../hostile-images.ts';

const run = promisify(execFile);

/** Makes files that need much memory, the hardest first, and returns their paths by description. `signal` ends the helper program. */
export async function makeHostileFiles(folder: string, signal: AbortSignal): Promise<Record<string, string>> {
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
    'interlaced PNG of 200 megapixels': interlaced,
    [`PDF with a ${filter === 'JPXDecode' ? 'JPX' : 'JPEG (no vips here to make JPX)'} of 150 megapixels`]: await write(
      'picture.pdf',
      await pdfOfImage({ width: 15_000, height: 10_000, filter, data: await readFile(picture) }),
    ),
    'progressive JPEG of 150 megapixels': progressive,
    'PNG bomb of 30,000 x 30,000, RGB': await write('bomb-near.png', pngOfZeros(30_000, 30_000)),
    'PDF with a box of 12,000 points': await write('box.pdf', await makeLargePage(12_000)),
    'PNG bomb of 225,000 x 225,000, 1 bit': await write(
      'bomb-far.png',
      pngOfZeros(225_000, 225_000, { depth: 1, rgb: false }),
    ),
  };
}

async function makeLargePage(side: number): Promise<Uint8Array> {
  const document = await PDFDocument.create();
  document.addPage([side, side]).drawRectangle({ width: side, height: side, color: rgb(0.9, 0.1, 0.1) });
  return document.save();
}

/** A picture that is mostly flat, so that its file is small. */
function drawScene(width: number, height: number) {
  const boxes = Array.from(
    { length: 12 },
    (_, at) =>
      `<rect x="${at * 150}" y="${(at * 370) % 1000}" width="280" height="110" fill="hsl(${at * 40},70%,60%)"/>`,
  );
  const picture = Buffer.from(`<svg width="2000" height="1200">${boxes.join('')}</svg>`);
  return sharp({ create: { width, height, channels: 3, background: '#eee' } }).composite([{ input: picture }]);
}

/** Encodes a picture as JPEG 2000, which sharp cannot write; without the vips program, the JPEG is used. */
async function encodePicture(folder: string, jpeg: string, signal: AbortSignal) {
  const file = path.join(folder, 'picture.jp2');
  try {
    await run('vips', ['jp2ksave', jpeg, file], { signal });
    return { filter: 'JPXDecode' as const, file };
  } catch {
    signal.throwIfAborted();
    return { filter: 'DCTDecode' as const, file: jpeg };
  }
}
