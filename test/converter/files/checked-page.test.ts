import { buffer } from 'node:stream/consumers';
import fc from 'fast-check';
import sharp from 'sharp';
import { checkedPage, isPageSize, maxPageBytes } from '../../../converter/files/checked-page.ts';
import { RejectedOutput } from '../../../converter/files/rejected-output.ts';

const size = { width: 20, height: 30 };
let png: Buffer;
beforeAll(async () => {
  png = await sharp({ create: { ...size, channels: 3, background: 'white' } })
    .png()
    .toBuffer();
});

/** Splits bytes into chunks of these lengths, and a rest. */
async function* chunksOf(bytes: Buffer, lengths: number[]): AsyncGenerator<Buffer> {
  let at = 0;
  for (const length of lengths) {
    yield bytes.subarray(at, at + length);
    at += length;
  }
  yield bytes.subarray(at);
}

const check = (bytes: Buffer, announced = size, lengths: number[] = []) =>
  buffer(checkedPage(chunksOf(bytes, lengths), announced));

test('a complete PNG file of the reported size passes unchanged, in chunks of any size', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(40)), async (lengths) => {
      expect(await check(png, size, lengths)).toEqual(png);
    }),
  );
});

test('a truncated file is rejected', async () => {
  for (let length = 0; length < png.length; length++) {
    await expect(check(png.subarray(0, length))).rejects.toThrow(RejectedOutput);
  }
});

test('a file with bytes after its end is rejected', async () => {
  await expect(check(Buffer.concat([png, Buffer.from('<script>')]))).rejects.toThrow(RejectedOutput);
});

test('a header with a wrong bit is rejected', async () => {
  for (let bit = 0; bit < 33 * 8; bit++) {
    const wrong = Buffer.from(png);
    wrong[bit >> 3] = (wrong[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    await expect(check(wrong)).rejects.toThrow(RejectedOutput);
  }
});

test('a size other than the reported one is rejected', async () => {
  await expect(check(png, { width: 30, height: 20 })).rejects.toThrow(
    'a page has 20 x 30 pixels, and was reported with 30 x 20',
  );
});

test('another format is rejected', async () => {
  const jpeg = await sharp(png).jpeg().toBuffer();
  await expect(check(jpeg)).rejects.toThrow(RejectedOutput);
});

test.each([
  [1, 1, true],
  [3499, 3499, true],
  [3500, 1, false],
  [1, 3500, false],
  [0, 1, false],
  [1, -1, false],
  [1.5, 1, false],
  [Number.NaN, 1, false],
])('a page may have %s x %s pixels: %s', (width, height, expected) => {
  expect(isPageSize({ width, height })).toBe(expected);
});

test('a page of noise is within the size limit', async () => {
  const noise = { width: 300, height: 200, channels: 4 as const };
  const bytes = Buffer.alloc(noise.width * noise.height * 4);
  for (let at = 0; at < bytes.length; at++) bytes[at] = Math.imul(at, 2_654_435_761) >>> 24;
  const page = await sharp(bytes, { raw: noise }).png({ compressionLevel: 0 }).toBuffer();
  expect(page.length).toBeLessThan(maxPageBytes(noise));
});
