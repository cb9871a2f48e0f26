import { randomBytes } from 'node:crypto';
import sharp from 'sharp';
import { encodePhotograph } from '../../../converter/render/encode-png.ts';
import { isOutOfMemory } from '../../../errors.ts';

describe('a photograph as PNG', () => {
  test.each([
    ['one pixel', 1, 1],
    ['one row', 97, 1],
    ['one column', 1, 97],
    ['rows that fill several bands', 301, 997],
    ['rows longer than a band', 90_000, 3],
  ])('has the very pixels: %s', async (_, width, height) => {
    const pixels = randomBytes(width * height * 3);
    const png = sharp(Buffer.concat(await encodePhotograph(pixels, width, height)));
    expect(await png.metadata()).toMatchObject({
      format: 'png',
      width,
      height,
      space: 'srgb',
      channels: 3,
      depth: 'uchar',
    });
    expect((await png.raw().toBuffer()).equals(pixels)).toBe(true);
  });
});

test('zlib without memory says nothing about the file', () => {
  expect(isOutOfMemory(Object.assign(new Error('Init error'), { code: 'Z_MEM_ERROR' }))).toBe(true);
  expect(isOutOfMemory(Object.assign(new Error('invalid data'), { code: 'Z_DATA_ERROR' }))).toBe(false);
});
