import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { deflateSync } from 'node:zlib';
import { PDFDocument, StandardFonts } from 'pdf-lib';
import sharp from 'sharp';
import { pdfOfImage } from './hostile-images.ts';

const WIDTH = 6_000;
const HEIGHT = 4_200;
const WORDS = 'the mill takes each sheet in turn and gives its picture back no page is lost and none comes twice'.split(
  ' ',
);

/** Writes a JPEG of 100 megapixels that costs as much as a photograph: soft light, soft shapes and detail, no noise. */
export async function writeLargeJpeg(file: string): Promise<void> {
  const light = Buffer.from(
    `<svg width="${WIDTH}" height="${HEIGHT}"><linearGradient id="sky" x2="0.3" y2="1"><stop stop-color="#9cf"/>
    <stop offset="0.6" stop-color="#fda"/><stop offset="1" stop-color="#231"/></linearGradient>
    <rect width="100%" height="100%" fill="url(#sky)"/></svg>`,
  );
  const shapes = await blurredNoise(WIDTH / 20, HEIGHT / 20, 90, 3);
  const detail = await blurredNoise(WIDTH, HEIGHT, 30, 0.8);
  const scene = await sharp(light)
    .composite([shapes, detail].map((input) => ({ input, blend: 'overlay' })))
    .removeAlpha()
    .raw()
    .toBuffer();
  await sharp(scene, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
    .resize(WIDTH * 2, HEIGHT * 2, { kernel: 'cubic' })
    .jpeg({ quality: 90 })
    .toFile(file);
}

/** Writes a JPEG like a scan of an A4 page at 300 dpi: 2480 x 3508, grey paper with some noise, lines of text. */
export async function writeScan(file: string): Promise<void> {
  const [width, height] = [2480, 3508];
  const lines = Array.from({ length: 45 }, (_, line) => {
    const text = Array.from({ length: 14 }, (_, word) => WORDS[(line * 7 + word) % WORDS.length]).join(' ');
    return `<text x="250" y="${400 + line * 62}" font-size="42" font-family="serif">${text}</text>`;
  });
  const text = Buffer.from(`<svg width="${width}" height="${height}">${lines.join('')}</svg>`);
  const noise = { type: 'gaussian', mean: 235, sigma: 6 } as const;
  await sharp({ create: { width, height, channels: 3, background: 'white', noise } })
    .composite([{ input: text }])
    .removeAlpha()
    .jpeg({ quality: 80 })
    .toFile(file);
}

/** Noise as a PNG of the scene's size. */
async function blurredNoise(width: number, height: number, sigma: number, blur: number): Promise<Buffer> {
  const noise = { type: 'gaussian', mean: 128, sigma } as const;
  const small = await sharp({ create: { width, height, channels: 3, background: 'grey', noise } })
    .blur(blur)
    .png({ compressionLevel: 1 })
    .toBuffer();
  return sharp(small).resize(WIDTH, HEIGHT, { kernel: 'cubic' }).png({ compressionLevel: 1 }).toBuffer();
}

/** A book of plain text. */
export async function writeTextPdf(file: string, pages: number): Promise<void> {
  const document = await PDFDocument.create();
  const font = await document.embedFont(StandardFonts.TimesRoman);
  for (let page = 0; page < pages; page++) {
    const line = (at: number) => Array.from({ length: 14 }, (_, word) => WORDS[(page + at * 7 + word) % WORDS.length]);
    const text = Array.from({ length: 42 }, (_, at) => line(at).join(' ')).join('\n');
    document.addPage([432, 648]).drawText(text, { x: 40, y: 600, size: 10, lineHeight: 13, font });
  }
  await writeFile(file, await document.save());
}

/** Writes images of 50 megapixels, and PDFs with one image each, which are small on disk and need much memory. */
export async function writeLargeImages(folder: string): Promise<void> {
  const side = { width: 10_000, height: 5_000 };
  const small = await blurred(500, 250);
  const large = () => sharp(small, { limitInputPixels: false }).resize({ ...side, fit: 'fill', kernel: 'nearest' });
  const jpegs = {
    baseline: await large().jpeg().toBuffer(),
    progressive: await large().jpeg({ progressive: true }).toBuffer(),
    turned: await large().withMetadata({ orientation: 6 }).jpeg({ progressive: true }).toBuffer(),
    cmyk: await large().toColourspace('cmyk').jpeg().toBuffer(),
  };
  for (const [name, data] of Object.entries(jpegs)) await writeFile(path.join(folder, `${name}.jpg`), data);
  await large().png({ compressionLevel: 1 }).toFile(path.join(folder, 'plain.png'));
  await large().png({ compressionLevel: 1, progressive: true }).toFile(path.join(folder, 'interlaced.png'));
  const rgb = await large().removeAlpha().raw().toBuffer();
  const grey = deflateSync(rgb.subarray(0, side.width * side.height), { level: 1 });
  const bilevel = deflateSync(rgb.subarray(0, (side.width * side.height) / 8));
  const images = {
    'dct-rgb': pdfOfImage({ ...side, filter: 'DCTDecode', data: jpegs.baseline }),
    'dct-progressive': pdfOfImage({ ...side, filter: 'DCTDecode', data: jpegs.progressive }),
    'dct-cmyk': pdfOfImage({ ...side, filter: 'DCTDecode', data: jpegs.cmyk, colors: 'DeviceCMYK' }),
    'flate-rgb': pdfOfImage({ ...side, filter: 'FlateDecode', data: deflateSync(rgb, { level: 1 }) }),
    'flate-grey': pdfOfImage({ ...side, filter: 'FlateDecode', data: grey, colors: 'DeviceGray' }),
    'flate-bilevel': pdfOfImage({ ...side, filter: 'FlateDecode', data: bilevel, colors: 'DeviceGray', bits: 1 }),
  };
  for (const [name, pdf] of Object.entries(images)) await writeFile(path.join(folder, `${name}.pdf`), await pdf);
}

function blurred(width: number, height: number): Promise<Buffer> {
  const noise = { type: 'gaussian', mean: 128, sigma: 40 } as const;
  return sharp({ create: { width, height, channels: 3, background: 'grey', noise } })
    .blur(1)
    .png()
    .toBuffer();
}
