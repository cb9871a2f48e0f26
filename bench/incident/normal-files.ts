import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { PDFDocument, StandardFonts } from 'pdf-lib';
import sharp, { type Sharp } from 'sharp';
import { createRandom, type Random } from '../random.ts';

/** Ordinary files by kind; the traffic sends each of them many times. */
export interface NormalFiles {
  photos: string[];
  scans: string[];
  pdfs: string[];
}

const SCENE = { width: 2_100, height: 1_400 };
const SCENES = 3;
const WORDS = 'the mill takes each sheet in turn and gives its picture back no page is lost and none comes twice'.split(
  ' ',
);
const MAX_PAGES = 20;

/** Makes the files, the same ones for the same seed. */
export async function makeNormalFiles(folder: string, seed: number): Promise<NormalFiles> {
  const random = createRandom(seed);
  const scenes: Buffer[] = [];
  for (let index = 0; index < SCENES; index++) scenes.push(await makeScene(random));
  const photos = await writeAll(folder, 'photo', 'jpg', 40, () => makePhoto(random, random.pick(scenes)));
  const [small = ''] = photos;
  const picture = await sharp(small).resize(600).jpeg().toBuffer();
  const scans = await writeAll(folder, 'scan', 'png', 14, () => makePngScan(random));
  scans.push(...(await writeAll(folder, 'scan', 'jpg', 6, () => makeJpegScan(random))));
  const pdfs = await writeAll(folder, 'document', 'pdf', 40, () => makePdf(random, picture));
  return { photos, scans, pdfs };
}

/** Makes the files one after the other, so that the seed decides which random numbers each of them uses. */
async function writeAll(
  folder: string,
  name: string,
  extension: string,
  count: number,
  make: () => Promise<Uint8Array>,
): Promise<string[]> {
  const files: string[] = [];
  for (let index = 1; index <= count; index++) {
    const file = path.join(folder, `${name}-${index}.${extension}`);
    await writeFile(file, await make());
    files.push(file);
  }
  return files;
}

/** Raw pixels that cost a codec about what a photograph does: soft light, soft shapes and detail. */
async function makeScene(random: Random): Promise<Buffer> {
  const { width, height } = SCENE;
  const hue = random.wholeNumber(0, 359);
  const light = `<svg width="${width}" height="${height}"><linearGradient id="sky" x2="0.3" y2="1">
    <stop stop-color="hsl(${hue},90%,80%)"/><stop offset="0.6" stop-color="hsl(${hue + 150},90%,80%)"/>
    <stop offset="1" stop-color="#231"/></linearGradient><rect width="100%" height="100%" fill="url(#sky)"/></svg>`;
  const shapes = await makeNoise(random, width / 20, height / 20, { amplitude: 160, blur: 3 });
  const detail = await makeNoise(random, width, height, { amplitude: 60, blur: 0.8 });
  return sharp(Buffer.from(light))
    .composite([shapes, detail].map((input) => ({ input, blend: 'overlay' })))
    .removeAlpha()
    .raw()
    .toBuffer();
}

/** Noise as a PNG of the scene's size. The noise of sharp cannot be seeded. */
async function makeNoise(random: Random, width: number, height: number, look: { amplitude: number; blur: number }) {
  const values = Uint8Array.from({ length: width * height }, () => 128 + (random.next() - 0.5) * 2 * look.amplitude);
  const small = await sharp(values, { raw: { width, height, channels: 1 } })
    .blur(look.blur)
    .png({ compressionLevel: 1 })
    .toBuffer();
  return sharp(small).resize(SCENE.width, SCENE.height, { kernel: 'cubic' }).png({ compressionLevel: 1 }).toBuffer();
}

/** A photo of 0.4 to 1.6 megapixels, portrait or landscape. */
function makePhoto(random: Random, scene: Buffer): Promise<Buffer> {
  const long = Math.round(Math.sqrt(random.between(0.4e6, 1.6e6) * 1.5));
  const sides = [long, Math.round(long / 1.5)] as const;
  const upright = random.next() < 0.3 && long <= SCENE.height;
  const [width, height] = upright ? [sides[1], sides[0]] : sides;
  const left = random.wholeNumber(0, SCENE.width - width);
  const top = random.wholeNumber(0, SCENE.height - height);
  return sharp(scene, { raw: { ...SCENE, channels: 3 } })
    .extract({ left, top, width, height })
    .jpeg({ quality: random.wholeNumber(78, 92) })
    .toBuffer();
}

/** Two in three are black and white at 300 dpi (8 megapixels), as office machines make them; the rest is grey. */
async function makePngScan(random: Random): Promise<Buffer> {
  if (random.next() < 2 / 3) {
    const page = drawSheet(random, 300).threshold(150);
    return page.png({ palette: true, colours: 2 }).toBuffer();
  }
  return (await withGrain(random, drawSheet(random, 150))).png().toBuffer();
}

async function makeJpegScan(random: Random): Promise<Buffer> {
  const page = await withGrain(random, drawSheet(random, random.pick([150, 200])));
  return page.jpeg({ quality: random.wholeNumber(70, 90) }).toBuffer();
}

/** An A4 sheet with lines of strokes: real letters would depend on the fonts of the machine. */
function drawSheet(random: Random, dpi: number) {
  const strokes: string[] = [];
  for (let line = 0; line < 46; line++) {
    const end = random.between(300, 530);
    for (let x = 60; x < end; x += random.next() < 0.18 ? 9 : 4.6) {
      const y = 80 + line * 15;
      const step = () => random.between(-3, 3).toFixed(1);
      strokes.push(`M${x.toFixed(1)} ${y}l${step()} ${step()} ${step()} ${step()}`);
    }
  }
  const [width, height] = [Math.round((595 * dpi) / 72), Math.round((842 * dpi) / 72)];
  const svg = `<svg width="${width}" height="${height}" viewBox="0 0 595 842"><rect width="595" height="842" fill="#fafafa"/>
    <path d="${strokes.join('')}" fill="none" stroke="#222" stroke-width="1"/></svg>`;
  return sharp(Buffer.from(svg)).flatten({ background: 'white' }).greyscale();
}

/** Adds the uneven light of a scanner. */
async function withGrain(random: Random, sheet: Sharp): Promise<Sharp> {
  const { data, info } = await sheet.toColourspace('b-w').raw().toBuffer({ resolveWithObject: true });
  for (let at = 0; at < data.length; at++) data[at] = Math.max(0, (data[at] ?? 0) - Math.floor(random.next() * 6));
  const { width, height } = info;
  return sharp(data, { raw: { width, height, channels: 1 } }).blur(0.6);
}

/** Text, and on one page in four a picture; short documents are more common than long ones. */
async function makePdf(random: Random, picture: Buffer): Promise<Uint8Array> {
  const document = await PDFDocument.create();
  const font = await document.embedFont(StandardFonts.TimesRoman);
  const embedded = await document.embedJpg(picture);
  const pages = 1 + Math.floor(MAX_PAGES * random.next() ** 2);
  for (let page = 0; page < pages; page++) {
    const line = () => Array.from({ length: 15 }, () => random.pick(WORDS)).join(' ');
    const pictured = random.next() < 0.25;
    const text = Array.from({ length: pictured ? 28 : 48 }, line).join('\n');
    const sheet = document.addPage([595, 842]);
    sheet.drawText(text, { x: 60, y: 770, size: 11, lineHeight: 14.5, font });
    if (pictured) sheet.drawImage(embedded, { x: 120, y: 80, width: 360, height: 240 });
  }
  return document.save();
}
