import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { convertImage } from '../../../converter/render/convert-image.ts';
import { inspectImage } from '../../../converter/render/inspect-image.ts';
import { BLUE, type Color, GREEN, makeImage, pixelAt, pngChunk, RED, YELLOW } from '../../support/files.ts';

const CORPUS = path.resolve('../shared/corpus/image');
const inCorpus = existsSync(CORPUS) ? test : test.skip;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'image-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function save(data: Buffer | string, name = 'image'): Promise<string> {
  const file = path.join(folder, name);
  await writeFile(file, data);
  return file;
}

async function convertFile(file: string) {
  const { png, ...size } = await convertImage(file);
  return { png: Buffer.concat(png), ...size };
}

async function convert(data: Buffer) {
  return convertFile(await save(data));
}

function expectNear(pixel: number[], color: readonly number[], tolerance: number): void {
  expect(pixel).toHaveLength(color.length);
  for (const [index, value] of pixel.entries())
    expect(Math.abs(value - (color[index] ?? 0))).toBeLessThanOrEqual(tolerance);
}

const corrupt = expect.objectContaining({ code: 'corrupt_file', retryable: false });

describe('colours', () => {
  test.each([
    ['a JPEG', { format: 'jpeg' }, 3],
    ['a progressive JPEG', { format: 'jpeg', progressive: true }, 3],
    ['a PNG', {}, 0],
    ['an interlaced PNG', { progressive: true }, 0],
    ['a PNG with a palette', { palette: true }, 0],
    ['a PNG in Display P3', { space: 'p3' }, 3],
    ['a JPEG in Display P3', { format: 'jpeg', space: 'p3' }, 4],
  ] as const)('%s keeps its colours', async (_, spec, tolerance) => {
    const { png, width, height } = await convert(await makeImage({ ...spec, color: RED }));
    expect([width, height]).toEqual([40, 30]);
    expectNear(await pixelAt(png, 20, 15), RED, tolerance);
  });

  // CMYK reaches no saturated red, so these are muted.
  test.each([
    [[150, 90, 90], 'without'],
    [[90, 120, 140], 'without'],
    [[150, 90, 90], 'with'],
    [[90, 120, 140], 'with'],
  ] as [Color, string][])('a CMYK JPEG of %j %s a profile keeps its colours', async ([r, g, b], profile) => {
    const image = sharp({ create: { width: 20, height: 20, channels: 3, background: { r, g, b } } }).toColourspace(
      'cmyk',
    );
    const jpeg = await (profile === 'with' ? image.withIccProfile('cmyk') : image).jpeg({ quality: 100 }).toBuffer();
    expect(await sharp(jpeg).metadata()).toMatchObject({ space: 'cmyk', hasProfile: profile === 'with' });
    expectNear(await pixelAt((await convert(jpeg)).png, 10, 10), [r, g, b], 12);
  });

  test.each(['jpeg', 'png'] as const)('a grey %s stays grey, shrunk or not', async (format) => {
    for (const width of [40, 4000]) {
      const image = sharp({ create: { width, height: 30, channels: 3, background: { r: 99, g: 99, b: 99 } } });
      const { png } = await convert(await image.toColourspace('b-w').toFormat(format).toBuffer());
      expect(await sharp(png).metadata()).toMatchObject({ space: 'b-w', channels: 1, depth: 'uchar' });
      expectNear(await pixelAt(png, 5, 5), [99, 99, 99], 1);
    }
  });

  test('a grey PNG with alpha keeps both', async () => {
    const image = sharp({
      create: { width: 9, height: 9, channels: 4, background: { r: 99, g: 99, b: 99, alpha: 0.5 } },
    });
    const { png } = await convert(await image.toColourspace('b-w').png().toBuffer());
    expectNear(await pixelAt(png, 5, 5), [99, 99, 99, 128], 1);
  });

  test('grey with a profile becomes sRGB', async () => {
    const image = sharp({ create: { width: 9, height: 9, channels: 3, background: { r: 99, g: 99, b: 99 } } });
    const grey = await image.clone().toColourspace('b-w').jpeg({ quality: 100 }).toBuffer();
    const { icc = Buffer.alloc(0) } = await sharp(await image.withIccProfile('srgb').jpeg().toBuffer()).metadata();
    const profile = Buffer.concat([Buffer.from('ICC_PROFILE\0\x01\x01', 'latin1'), icc]);
    const segment = Buffer.from([0xff, 0xe2, 0, 0]);
    segment.writeUInt16BE(profile.length + 2, 2);
    const profiled = Buffer.concat([grey.subarray(0, 2), segment, profile, grey.subarray(2)]);
    expect(await sharp(profiled).metadata()).toMatchObject({ channels: 1, hasProfile: true });
    const { png } = await convert(profiled);
    expect(await sharp(png).metadata()).toMatchObject({ space: 'srgb', channels: 3 });
    expectNear(await pixelAt(png, 5, 5), [99, 99, 99], 2);
  });

  test('16-bit colour becomes 8-bit colour', async () => {
    const data = new Uint16Array(20 * 20 * 3).map((_, index) => [0x4000, 0x8000, 0xc000][index % 3] ?? 0);
    const deep = await sharp(data, { raw: { width: 20, height: 20, channels: 3 } })
      .toColourspace('rgb16')
      .png()
      .toBuffer();
    expect(await inspectImage(await save(deep))).toMatchObject({ deep: true });
    const { png } = await convert(deep);
    expect(await sharp(png).metadata()).toMatchObject({ depth: 'uchar', bitsPerSample: 8 });
    expectNear(await pixelAt(png, 5, 5), [0x40, 0x80, 0xc0], 1);
  });

  test('16-bit grey becomes 8-bit grey', async () => {
    const data = new Uint16Array(20 * 20).fill(0x8000);
    const deep = await sharp(data, { raw: { width: 20, height: 20, channels: 1 } })
      .toColourspace('grey16')
      .png()
      .toBuffer();
    expectNear(await pixelAt((await convert(deep)).png, 5, 5), [0x80, 0x80, 0x80], 1);
  });

  test('alpha is kept', async () => {
    const { png } = await convert(await makeImage({ color: GREEN, alpha: 0.5 }));
    expectNear(await pixelAt(png, 5, 5), [...GREEN, 128], 1);
  });

  test('an animation gives its first frame', async () => {
    const { png, height } = await convert(animated(await makeImage({ color: RED }), await makeImage({ color: BLUE })));
    expect(height).toBe(30);
    expectNear(await pixelAt(png, 5, 5), RED, 0);
  });

  inCorpus('a CMYK photograph and a Display P3 PNG become sRGB (needs the corpus)', async () => {
    const cmyk = await convertFile(path.join(CORPUS, 'Channel_digital_image_CMYK_color.jpg'));
    expect(await sharp(cmyk.png).metadata()).toMatchObject({ space: 'srgb', channels: 3, width: 500, height: 333 });
    const p3 = await convertFile(path.join(CORPUS, 'p3.png'));
    const untouched = await sharp(path.join(CORPUS, 'p3.png'), { ignoreIcc: true }).raw().toBuffer();
    expect(await sharp(p3.png).raw().toBuffer()).not.toEqual(untouched);
  });
});

describe('orientation', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('a picture of EXIF orientation %i is upright', async (orientation) => {
    const file = await save(await cornersStoredAs(orientation));
    const stored = orientation > 4 ? { width: 40, height: 60 } : { width: 60, height: 40 };
    expect(await inspectImage(file)).toMatchObject({ ...stored, orientation });
    const { png, width, height } = await convertFile(file);
    expect([width, height]).toEqual([60, 40]);
    const corners = [
      await pixelAt(png, 5, 5),
      await pixelAt(png, 54, 5),
      await pixelAt(png, 5, 34),
      await pixelAt(png, 54, 34),
    ];
    for (const [index, color] of [RED, GREEN, BLUE, YELLOW].entries()) expectNear(corners[index] ?? [], color, 6);
  });

  test('a large picture that its orientation turns fits below 3500', async () => {
    const wide = await sharp({ create: { width: 5000, height: 100, channels: 3, background: 'red' } })
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toBuffer();
    expect(await convert(wide)).toMatchObject({ width: 70, height: 3499 });
  });
});

describe('size', () => {
  test('3499 pixels are kept, 3500 are shrunk with their aspect', async () => {
    expect(await convert(await makeImage({ width: 3499, height: 7 }))).toMatchObject({ width: 3499, height: 7 });
    expect(await convert(await makeImage({ width: 3500, height: 1000 }))).toMatchObject({ width: 3499, height: 1000 });
    expect(await convert(await makeImage({ width: 20, height: 7000 }))).toMatchObject({ width: 10, height: 3499 });
  });

  test('one pixel and a line of pixels are kept', async () => {
    expect(await convert(await makeImage({ width: 1, height: 1 }))).toMatchObject({ width: 1, height: 1 });
    expect(await convert(await makeImage({ width: 9000, height: 1 }))).toMatchObject({ width: 3499, height: 1 });
  });

  test('the header contains size, interlacing and alpha', async () => {
    const jpeg = await save(await makeImage({ format: 'jpeg', progressive: true }), 'a.jpg');
    expect(await inspectImage(jpeg)).toEqual({
      format: 'jpeg',
      width: 40,
      height: 30,
      channels: 3,
      deep: false,
      progressive: true,
      orientation: 1,
      hasAlpha: false,
      cmyk: false,
      isGrey: false,
      subsampled: false,
      bytes: (await stat(jpeg)).size,
    });
    expect(await inspectImage(await save(await makeImage({ alpha: 1 })))).toMatchObject({
      hasAlpha: true,
      progressive: false,
    });
  });
});

test('metadata is removed', async () => {
  const source = sharp({ create: { width: 9, height: 9, channels: 3, background: 'red' } }).withIccProfile('p3');
  const { png } = await convert(
    await source
      .withExif({ IFD0: { Artist: 'somebody' } })
      .jpeg()
      .toBuffer(),
  );
  expect(png.toString('latin1')).not.toMatch(/iCCP|eXIf|tEXt|zTXt|iTXt|somebody/);
});

describe('a corrupt image is refused:', () => {
  test.each(['png', 'jpeg'] as const)('a truncated %s', async (format) => {
    const noise = sharp({
      create: {
        width: 300,
        height: 300,
        channels: 3,
        background: 'red',
        noise: { type: 'gaussian', mean: 128, sigma: 30 },
      },
    });
    const whole = await noise.toFormat(format).toBuffer();
    await expect(convert(whole.subarray(0, whole.length / 2))).rejects.toEqual(corrupt);
    await expect(convert(whole.subarray(0, 30))).rejects.toEqual(corrupt);
  });

  test('text and an empty file', async () => {
    await expect(inspectImage(await save('hello'))).rejects.toEqual(corrupt);
    await expect(inspectImage(await save(''))).rejects.toEqual(corrupt);
  });

  test.each(['gif', 'tiff', 'webp'] as const)('a %s named .png, whose loader is blocked', async (format) => {
    const file = await save(
      await sharp(await makeImage())
        .toFormat(format)
        .toBuffer(),
      'picture.png',
    );
    await expect(inspectImage(file)).rejects.toEqual(corrupt);
    await expect(convertImage(file)).rejects.toEqual(corrupt);
  });

  test('an SVG named .png', async () => {
    const file = await save('<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>', 'drawing.png');
    await expect(convertImage(file)).rejects.toEqual(corrupt);
  });
});

test('stray bytes after a JPEG are ignored', async () => {
  const { png } = await convert(Buffer.concat([await makeImage({ format: 'jpeg' }), Buffer.from('trailing')]));
  expectNear(await pixelAt(png, 5, 5), RED, 3);
});

inCorpus('every image of the corpus except the corrupt one is converted (needs the corpus)', async () => {
  // 65536 x 65536 pixels would take ten seconds.
  for (const name of (await readdir(CORPUS)).filter((name) => !name.startsWith('65536'))) {
    const outcome = await convertImage(path.join(CORPUS, name)).then(
      ({ width }) => (width > 0 ? 'converted' : 'empty'),
      (error) => error.code,
    );
    expect([name, outcome]).toEqual([name, name === 'corrupt-header.jpg' ? 'corrupt_file' : 'converted']);
  }
});

/** Red, green, blue and yellow quarters (left to right, top to bottom) of 60x40, stored so that `orientation` puts them upright. */
function cornersStoredAs(orientation: number): Promise<Buffer> {
  const turned = orientation > 4;
  const [width, height] = turned ? [40, 60] : [60, 40];
  const mirrored = [2, 3, 6, 7].includes(orientation);
  const flipped = [3, 4, 7, 8].includes(orientation);
  const pixels = Buffer.alloc(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      // Orientation 6, say: the first row as stored is the right side of the picture, the first column its top.
      const left = (turned ? y < 30 : x < 30) !== mirrored;
      const top = (turned ? x < 20 : y < 20) !== flipped;
      pixels.set(top ? (left ? RED : GREEN) : left ? BLUE : YELLOW, (y * width + x) * 3);
    }
  }
  return sharp(pixels, { raw: { width, height, channels: 3 } })
    .withMetadata({ orientation })
    .jpeg({ quality: 100, chromaSubsampling: '4:4:4' })
    .toBuffer();
}

/** An APNG of two frames, both shown for a second. */
function animated(first: Buffer, second: Buffer): Buffer {
  const control = (sequence: number) => pngChunk('fcTL', u32(sequence, 40, 30, 0, 0), Buffer.from([0, 1, 0, 1, 0, 0]));
  const header = first.subarray(0, 33);
  const image = (png: Buffer) => {
    const at = png.indexOf('IDAT');
    return png.subarray(at + 4, at + 4 + png.readUInt32BE(at - 4));
  };
  return Buffer.concat([
    header,
    pngChunk('acTL', u32(2, 0)),
    control(0),
    pngChunk('IDAT', image(first)),
    control(1),
    pngChunk('fdAT', u32(2), image(second)),
    pngChunk('IEND'),
  ]);
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}
