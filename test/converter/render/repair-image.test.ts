import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { convertImage } from '../../../converter/render/convert-image.ts';
import { pngChunk } from '../../support/files.ts';

const INPUTS = path.resolve('../shared/inputs');
const withInputs = existsSync(INPUTS) ? test : test.skip;
const WIDTH = 400;
const HEIGHT = 640;
const END_MARKER_BYTES = 2;
const corrupt = expect.objectContaining({ code: 'corrupt_file', retryable: false });
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'repair-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function convert(data: Buffer): Promise<Buffer> {
  const file = path.join(folder, 'image');
  await writeFile(file, data);
  return Buffer.concat((await convertImage(file)).png);
}

/** The number of equal rows at the top of two PNG files. */
async function commonRows(one: Buffer, other: Buffer): Promise<number> {
  const [a, b] = await Promise.all([one, other].map((png) => sharp(png).raw().toBuffer({ resolveWithObject: true })));
  if (!a || !b) throw new Error('no picture');
  expect(a.info).toMatchObject({ width: b.info.width, height: b.info.height });
  const rowBytes = a.info.width * a.info.channels;
  const rowOf = (pixels: Buffer, row: number) => pixels.subarray(row * rowBytes, (row + 1) * rowBytes);
  let row = 0;
  while (row < a.info.height && rowOf(a.data, row).equals(rowOf(b.data, row))) row++;
  return row;
}

/** All rows take about as many bytes. */
function picture(): ReturnType<typeof sharp> {
  const noise = { type: 'gaussian', mean: 128, sigma: 30 } as const;
  return sharp({ create: { width: WIDTH, height: HEIGHT, channels: 3, background: 'red', noise } });
}

/** Each row of blocks is one restart interval: a separate JPEG without a header. */
async function jpegWithRestarts(): Promise<Buffer> {
  const pixels = await picture().raw().toBuffer();
  const strips: Buffer[] = [];
  for (let top = 0; top < HEIGHT; top += 8) {
    const data = pixels.subarray(top * WIDTH * 3, (top + 8) * WIDTH * 3);
    const options = { chromaSubsampling: '4:4:4', optimiseCoding: false } as const;
    strips.push(
      await sharp(data, { raw: { width: WIDTH, height: 8, channels: 3 } })
        .jpeg(options)
        .toBuffer(),
    );
  }
  const [first = Buffer.alloc(0)] = strips;
  const scanOf = (jpeg: Buffer) => jpeg.indexOf(Buffer.from([0xff, 0xda]));
  const header = Buffer.from(first.subarray(0, scanOf(first)));
  header.writeUInt16BE(HEIGHT, header.indexOf(Buffer.from([0xff, 0xc0])) + 5);
  const interval = Buffer.from([0xff, 0xdd, 0, 4, 0, WIDTH / 8]);
  const intervals = strips.flatMap((jpeg, index) => {
    const scan = scanOf(jpeg);
    const data = jpeg.subarray(scan + 2 + jpeg.readUInt16BE(scan + 2), -END_MARKER_BYTES);
    return index === 0
      ? [jpeg.subarray(scan, -END_MARKER_BYTES)]
      : [Buffer.from([0xff, 0xd0 + ((index - 1) % 8)]), data];
  });
  return Buffer.concat([header, interval, ...intervals, Buffer.from([0xff, 0xd9])]);
}

/** The content of all IDAT chunks. */
function imageData(png: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = png.indexOf('IDAT'); at !== -1; at = png.indexOf('IDAT', at)) {
    const end = at + 4 + png.readUInt32BE(at - 4);
    parts.push(png.subarray(at + 4, end));
    at = end;
  }
  return Buffer.concat(parts);
}

describe.each([
  ['baseline', () => picture().jpeg().toBuffer()],
  ['grey', () => picture().toColourspace('b-w').jpeg().toBuffer()],
  ['CMYK', () => picture().toColourspace('cmyk').jpeg().toBuffer()],
  ['with restart markers', jpegWithRestarts],
  ['turned by its orientation', () => picture().withMetadata({ orientation: 3 }).jpeg().toBuffer()],
])('a JPEG, %s', (kind, make) => {
  test.each([1, 2, 3])('is repaired without its last %i bytes', async (cut) => {
    const whole = await make();
    const png = await convert(whole.subarray(0, -cut));
    const rows = await commonRows(png, await convert(whole));
    if (kind !== 'turned by its orientation') expect(rows).toBeGreaterThanOrEqual(HEIGHT - 17);
    if (cut <= END_MARKER_BYTES) expect(rows).toBe(HEIGHT);
  });

  test('is repaired with 98.5% of its data, and is refused with 93%', async () => {
    const whole = await make();
    const png = await convert(whole.subarray(0, whole.length * 0.985));
    if (kind !== 'turned by its orientation') {
      expect(await commonRows(png, await convert(whole))).toBeGreaterThan(HEIGHT * 0.95);
    }
    for (const share of [0.93, 0.9, 0.5, 0.2]) {
      await expect(convert(whole.subarray(0, whole.length * share))).rejects.toEqual(corrupt);
    }
  });
});

test('a JPEG that ends at any byte of its end is decoded to at least 95% of its rows, or refused', async () => {
  for (const make of [() => picture().jpeg({ quality: 30 }).toBuffer(), jpegWithRestarts]) {
    const whole = await make();
    const expected = await convert(whole);
    for (let cut = 5; cut < whole.length * 0.08; cut += Math.ceil(whole.length / 997)) {
      const outcome = await convert(whole.subarray(0, -cut)).catch((error) => error);
      if (Buffer.isBuffer(outcome)) expect(await commonRows(outcome, expected)).toBeGreaterThanOrEqual(HEIGHT * 0.95);
      else expect(outcome).toEqual(corrupt);
    }
  }
});

describe('a progressive JPEG', () => {
  test('is repaired without its end marker', async () => {
    const whole = await picture().jpeg({ progressive: true }).toBuffer();
    const png = await convert(whole.subarray(0, -END_MARKER_BYTES));
    expect(await commonRows(png, await convert(whole))).toBe(HEIGHT);
  });

  test('is repaired if its last scan ends late, and is refused if it ends early or is missing', async () => {
    const whole = await picture().jpeg({ progressive: true }).toBuffer();
    const lastScan = whole.lastIndexOf(Buffer.from([0xff, 0xda]));
    const cutAt = (share: number) => whole.subarray(0, lastScan + (whole.length - lastScan) * share);
    expect(await commonRows(await convert(cutAt(0.98)), await convert(whole))).toBeGreaterThan(HEIGHT * 0.95);
    await expect(convert(cutAt(0.9))).rejects.toEqual(corrupt);
    await expect(convert(cutAt(0.001))).rejects.toEqual(corrupt);
    await expect(convert(whole.subarray(0, lastScan))).rejects.toEqual(corrupt);
  });

  test('is refused when its first scan is nearly whole and the others are missing', async () => {
    const whole = await picture().jpeg({ progressive: true }).toBuffer();
    const second = whole.indexOf(Buffer.from([0xff, 0xda]), whole.indexOf(Buffer.from([0xff, 0xda])) + 2);
    await expect(convert(whole.subarray(0, second - 40))).rejects.toEqual(corrupt);
  });
});

describe('a PNG', () => {
  test.each([1, 4, 12, 16, 20])('is repaired without its last %i bytes', async (cut) => {
    const whole = await picture().png().toBuffer();
    expect(await commonRows(await convert(whole.subarray(0, -cut)), await convert(whole))).toBeGreaterThan(HEIGHT - 3);
  });

  test('is repaired with 97% of its data, and is refused with less than 95%', async () => {
    for (const image of [picture(), picture().ensureAlpha(0.5), picture().toColourspace('b-w')]) {
      const whole = await image.png().toBuffer();
      const png = await convert(whole.subarray(0, whole.length * 0.97));
      expect(await commonRows(png, await convert(whole))).toBeGreaterThan(HEIGHT * 0.95);
      await expect(convert(whole.subarray(0, whole.length * 0.94))).rejects.toEqual(corrupt);
    }
  });

  test('that is interlaced and cut is refused', async () => {
    const whole = await picture().png({ progressive: true }).toBuffer();
    await expect(convert(whole.subarray(0, whole.length * 0.99))).rejects.toEqual(corrupt);
  });

  test('is refused when a byte in the middle is damaged', async () => {
    const whole = await picture().png().toBuffer();
    const damaged = Buffer.from(whole);
    damaged[Math.floor(whole.length / 2)] = (damaged[Math.floor(whole.length / 2)] ?? 0) ^ 0x10;
    await expect(convert(damaged)).rejects.toEqual(corrupt);
  });

  test('is repaired when the chunk with the last rows is damaged', async () => {
    const whole = await picture().png().toBuffer();
    const data = imageData(whole);
    const at = Math.floor(data.length * 0.97);
    const last = pngChunk('IDAT', data.subarray(at));
    last[20] = (last[20] ?? 0) ^ 0xff;
    const head = whole.subarray(0, whole.indexOf('IDAT') - 4);
    const png = await convert(Buffer.concat([head, pngChunk('IDAT', data.subarray(0, at)), last, pngChunk('IEND')]));
    expect(await commonRows(png, await convert(whole))).toBeGreaterThan(HEIGHT * 0.95);
  });
});

test('noise after a signature is refused', async () => {
  for (const start of [Buffer.from([0xff, 0xd8, 0xff, 0xe0]), Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')]) {
    await expect(convert(Buffer.concat([start, randomBytes(5000)]))).rejects.toEqual(corrupt);
  }
});

withInputs('a JPEG of a scanner without an end marker is converted (needs the corpus)', async () => {
  expect((await convertImage(path.join(INPUTS, 'jpg-no-eoi.jpg'))).width).toBeGreaterThan(0);
});
