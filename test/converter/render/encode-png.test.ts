import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import sharp from 'sharp';
import { encodePng, type RawPixels } from '../../../converter/render/encode-png.ts';
import { isOutOfMemory } from '../../../runtime/errors.ts';

const GREY = 0;
const RGB = 2;
const PALETTE = 3;

async function encode(raw: RawPixels): Promise<{ png: Buffer; bitDepth: number; colorType: number }> {
  const png = Buffer.concat(await encodePng(raw));
  return { png, bitDepth: png.readUInt8(24), colorType: png.readUInt8(25) };
}

/** As RGB, decoded by libpng, which checks every checksum. */
function decode(png: Buffer): Promise<Buffer> {
  return sharp(png, { failOn: 'warning' }).toColourspace('srgb').raw().toBuffer();
}

/** The RGB bytes of any raw pixels. */
function rgbOf({ data, channels }: RawPixels): Buffer {
  const rgb = Buffer.alloc((data.length / channels) * 3);
  for (let from = 0, to = 0; to < rgb.length; from += channels, to += 3) {
    for (let color = 0; color < 3; color++) rgb[to + color] = data[from + (channels === 1 ? 0 : color)] ?? 0;
  }
  return rgb;
}

/** A page of pixels that take their colours from a list, with any fourth bytes. */
function pageOf(colors: number[][], width: number, height: number, pick: (at: number) => number): RawPixels {
  const data = new Uint8Array(width * height * 4);
  for (let at = 0; at < width * height; at++) data.set([...(colors[pick(at) % colors.length] ?? []), at], at * 4);
  return { data, width, height, channels: 4 };
}

const greys = Array.from({ length: 256 }, (_, value) => [value, value, value]);
const blues = Array.from({ length: 256 }, (_, value) => [value, 10, 200]);

describe('a photograph as PNG', () => {
  test.each([
    ['one pixel', 1, 1],
    ['one row', 97, 1],
    ['one column', 1, 97],
    ['rows that fill several bands', 701, 997],
    ['rows longer than a band', 400_000, 3],
  ])('keeps its pixels: %s', async (_, width, height) => {
    for (const channels of [1, 3] as const) {
      const raw: RawPixels = { data: randomBytes(width * height * channels), width, height, channels };
      const { png, bitDepth, colorType } = await encode(raw);
      expect({ bitDepth, colorType }).toEqual({ bitDepth: 8, colorType: channels === 1 ? GREY : RGB });
      expect((await decode(png)).equals(rgbOf(raw))).toBe(true);
    }
  });

  test('is smaller than without a filter, also as a drawn page', async () => {
    const [width, height] = [600, 400];
    const data = softPicture(width, height);
    const image = sharp(data, { raw: { width, height, channels: 3 } });
    const unfiltered = await image.clone().png({ compressionLevel: 2, adaptiveFiltering: false }).toBuffer();
    for (const channels of [3, 4] as const) {
      const pixels = channels === 4 ? await image.clone().ensureAlpha().raw().toBuffer() : data;
      const { png } = await encode({ data: pixels, width, height, channels });
      expect(png.length).toBeLessThan(unfiltered.length * 0.85);
      expect((await decode(png)).equals(data)).toBe(true);
    }
  });
});

describe('a drawn page as PNG', () => {
  test.each([
    ['black and white: one bit', [greys[0], greys[255]], 1, GREY],
    ['white alone: one bit', [greys[255]], 1, GREY],
    ['two other greys: 8-bit grey', [greys[1], greys[255]], 8, GREY],
    ['all greys: 8-bit grey', greys, 8, GREY],
    ['256 colours: a palette', blues, 8, PALETTE],
    ['257 colours: RGB', [...blues, [255, 255, 255]], 8, RGB],
  ])('%s', async (_, colors, bitDepth, colorType) => {
    const page = pageOf(colors as number[][], 131, 61, (at) => at);
    const encoded = await encode(page);
    expect(encoded).toMatchObject({ bitDepth, colorType });
    expect((await decode(encoded.png)).equals(rgbOf(page))).toBe(true);
  });

  test.each([
    ['the last pixel has the only colour', 8, PALETTE, greys.slice(0, 9), [1, 2, 3]],
    ['the last pixel is the only grey', 8, GREY, [greys[0], greys[255]], [7, 7, 7]],
    ['the last pixel is colour 257', 8, RGB, greys, [1, 2, 3]],
  ])('%s', async (_, bitDepth, colorType, colors, last) => {
    // 21 is a row that is not sampled first.
    const page = pageOf(colors as number[][], 33, 21, (at) => at);
    page.data.set(last, page.data.length - 4);
    const encoded = await encode(page);
    expect(encoded).toMatchObject({ bitDepth, colorType });
    expect((await decode(encoded.png)).equals(rgbOf(page))).toBe(true);
  });

  test('pages that are encoded at the same time do not mix', async () => {
    const pages = [greys, blues, [...greys, ...blues], [greys[0], greys[255]], greys].map((colors, n) =>
      pageOf(colors as number[][], 200 - n, 150, (at) => at * (n + 1)),
    );
    for (let round = 0; round < 3; round++) {
      const encoded = await Promise.all(pages.map(encode));
      for (const [n, page] of pages.entries()) {
        expect((await decode(encoded[n]?.png ?? Buffer.alloc(0))).equals(rgbOf(page))).toBe(true);
      }
    }
  });

  test('pixels that do not start at a multiple of four bytes are kept', async () => {
    const page = pageOf(blues, 9, 9, (at) => at);
    const shifted = new Uint8Array(page.data.length + 1);
    shifted.set(page.data, 1);
    const { png } = await encode({ ...page, data: shifted.subarray(1) });
    expect((await decode(png)).equals(rgbOf(page))).toBe(true);
  });

  test('any small picture keeps its pixels', async () => {
    const kinds = fc.constantFrom([greys[0], greys[255]], greys, greys.slice(250), blues, blues.slice(9, 12), [
      ...greys,
      ...blues,
    ]);
    const size = fc.integer({ min: 1, max: 40 });
    await fc.assert(
      fc.asyncProperty(kinds, size, size, fc.infiniteStream(fc.nat(511)), async (colors, width, height, picks) => {
        const page = pageOf(colors as number[][], width, height, () => picks.next().value ?? 0);
        const { png } = await encode(page);
        expect(await sharp(png).metadata()).toMatchObject({ width, height, hasAlpha: false });
        expect((await decode(png)).equals(rgbOf(page))).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  test.each([
    ['black', [0, 0, 0]],
    ['the black of print', [35, 31, 32]],
    ['a colour', [30, 70, 110]],
  ])('is at most 10%% larger than by libpng: %s', async (name, color) => {
    const [width, height] = [900, 700];
    const data = drawing(color, width, height);
    const image = sharp(data, { raw: { width, height, channels: 4 } }).removeAlpha();
    const theirs = await (name === 'black' ? image.toColourspace('b-w') : image)
      .png({ compressionLevel: 2, adaptiveFiltering: false })
      .toBuffer();
    const { png } = await encode({ data, width, height, channels: 4 });
    expect(png.length).toBeLessThan(theirs.length * 1.1);
    expect((await decode(png)).equals(rgbOf({ data, width, height, channels: 4 }))).toBe(true);
  });
});

test('zlib running out of memory is not an error of the file', () => {
  expect(isOutOfMemory(Object.assign(new Error('Init error'), { code: 'Z_MEM_ERROR' }))).toBe(true);
  expect(isOutOfMemory(Object.assign(new Error('invalid data'), { code: 'Z_DATA_ERROR' }))).toBe(false);
});

/** RGB pixels with soft light and a little noise. */
function softPicture(width: number, height: number): Buffer {
  const noise = randomBytes(width * height);
  return Buffer.from(
    Array.from({ length: width * height * 3 }, (_, at) => {
      const [pixel, color] = [Math.floor(at / 3), at % 3];
      const [x, y] = [pixel % width, Math.floor(pixel / width)];
      return 120 + 90 * Math.sin(x / 90 + color) * Math.cos(y / 70) + ((noise[pixel] ?? 0) % 5);
    }),
  );
}

/** RGBX pixels: rings in one colour with soft edges, on white. */
function drawing(color: readonly number[], width: number, height: number): Uint8Array {
  const data = new Uint8Array(width * height * 4).fill(255);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const radius = 3 + ((Math.floor(x / 25) + Math.floor(y / 25) * 3) % 8);
      const share = Math.max(0, 1 - Math.abs(Math.hypot((x % 25) - 12, (y % 25) - 12) - radius));
      for (const [at, value] of color.entries()) data[(y * width + x) * 4 + at] = 255 - share * (255 - value);
    }
  }
  return data;
}
