import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { DrawnPage } from '../../../../converter/render/engines/engine.ts';
import { openWithPdfToImg } from '../../../../converter/render/engines/pdf-to-img/document.ts';
import { openWithPdfium } from '../../../../converter/render/engines/pdfium/document.ts';
import { fitScale } from '../../../../converter/render/fit.ts';
import {
  BLUE,
  type Color,
  emptyPdf,
  encryptedPdf,
  GREEN,
  makePdf,
  RED,
  writePdf,
  YELLOW,
} from '../../../support/files.ts';

const CORPUS = path.resolve('../shared/corpus/pdf');
const inCorpus = existsSync(CORPUS) ? test : test.skip;
const WHITE: Color = [255, 255, 255];
let folder: string;
/** The function of the engine under test. */
let openPdf: typeof openWithPdfToImg;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pdf-'));
});
afterAll(() => rm(folder, { recursive: true }));

function describeBoth(what: string, tests: () => void): void {
  const engines = [
    ['pdf-to-img', openWithPdfToImg],
    ['PDFium', openWithPdfium],
  ] as const;
  describe.each(engines)(`${what}, by %s`, (_, open) => {
    beforeAll(() => {
      openPdf = open;
    });
    tests();
  });
}

async function save(data: Buffer): Promise<string> {
  const file = path.join(folder, 'file.pdf');
  await writeFile(file, data);
  return file;
}

/** The pages of a PDF at `dpi`, all of them or those named. */
async function draw(file: string, dpi = 72, pages?: number[], password: string | null = null): Promise<DrawnPage[]> {
  const document = await openPdf(file, password);
  try {
    const drawn = [];
    for (const page of pages ?? Array.from({ length: document.pageCount }, (_, index) => index + 1)) {
      const { width, height } = await document.pageBox(page);
      const fit = fitScale(width, height, dpi);
      const raw = await copyOf(document.render(page, fit.scale));
      expect([raw.width, raw.height, raw.data.length]).toEqual([fit.width, fit.height, fit.width * fit.height * 4]);
      drawn.push(raw);
    }
    return drawn;
  } finally {
    await document.close();
  }
}

/** Copies the pixels, which are valid until the next call of the same document. */
async function copyOf(drawing: Promise<DrawnPage>): Promise<DrawnPage> {
  const page = await drawing;
  return { ...page, data: page.data.slice() };
}

/** The colour at a fraction of width and height. */
function colorAt({ data, width, height }: DrawnPage, across: number, down: number): number[] {
  const at = (Math.floor(height * down) * width + Math.floor(width * across)) * 4;
  return [...data.subarray(at, at + 3)];
}

function inkShare({ data }: DrawnPage): number {
  let dark = 0;
  for (let at = 0; at < data.length; at += 4) if ((data[at] as number) < 128) dark++;
  return dark / (data.length / 4);
}

describeBoth('pages', () => {
  test('are in order, with their colours and sizes', async () => {
    const colors = [RED, GREEN, BLUE, YELLOW, GREEN, RED];
    const sizes = [
      [200, 300],
      [300, 200],
      [200, 300],
      [50, 50],
      [2000, 10],
      [200, 300],
    ];
    const specs = colors.map((color, index) => ({
      color,
      width: sizes[index]?.[0] ?? 0,
      height: sizes[index]?.[1] ?? 0,
    }));
    const drawn = await draw(await save(await makePdf(specs)));
    expect(drawn.map((raw) => colorAt(raw, 0.5, 0.5))).toEqual(colors);
    expect(drawn.map(({ width, height }) => [width, height])).toEqual(sizes);
  });

  test('can be drawn in any order, twice, at other scales and at the same time', async () => {
    const document = await openPdf(await save(await makePdf([{ color: RED }, { color: GREEN }])), null);
    const [second, box, first, again] = await Promise.all([
      copyOf(document.render(2, 2)),
      document.pageBox(1),
      copyOf(document.render(1, 1)),
      copyOf(document.render(2, 0.5)),
    ]);
    await document.close();
    expect(box).toEqual({ width: 200, height: 300 });
    expect([second, first, again].map((raw) => [raw.width, colorAt(raw, 0.5, 0.5)])).toEqual([
      [400, GREEN],
      [200, RED],
      [100, GREEN],
    ]);
  });

  test.each([
    [0, 0.05, 0.05, 200, 300],
    [90, 0.95, 0.05, 300, 200],
    [180, 0.95, 0.95, 200, 300],
    [270, 0.05, 0.95, 300, 200],
  ])('are turned by %i degrees', async (rotate, across, down, width, height) => {
    const [raw] = (await draw(await save(await makePdf([{ color: RED, rotate }])))) as [DrawnPage];
    expect([raw.width, raw.height]).toEqual([width, height]);
    expect(colorAt(raw, across, down)).toEqual([0, 0, 0]);
    expect(colorAt(raw, 1 - across, 1 - down)).toEqual(RED);
  });

  test('a UserUnit multiplies the size', async () => {
    const document = await openPdf(await save(await makePdf([{ color: RED, userUnit: 2.5 }])), null);
    expect(await document.pageBox(1)).toEqual({ width: 500, height: 750 });
    await document.close();
  });

  test('a page of 14400 points is drawn whole at 3499 pixels', async () => {
    const [raw] = (await draw(await save(await makePdf([{ color: BLUE, width: 14400, height: 14400 }])), 200)) as [
      DrawnPage,
    ];
    expect([raw.width, raw.height]).toEqual([3499, 3499]);
    expect([colorAt(raw, 0.05, 0.05), colorAt(raw, 0.999, 0.999)]).toEqual([[0, 0, 0], BLUE]);
  });

  test('a page of fractional size has whole pixels without a shift', async () => {
    const [raw] = (await draw(await save(await makePdf([{ color: GREEN, width: 595.276, height: 841.89 }])), 200)) as [
      DrawnPage,
    ];
    expect([colorAt(raw, 0.5, 0.5), colorAt(raw, 0.05, 0.05)]).toEqual([GREEN, [0, 0, 0]]);
  });

  test('text in a font that is not embedded leaves ink', async () => {
    const [plain, lettered] = await draw(
      await save(await makePdf([{ color: [0, 0, 0] }, { color: [0, 0, 0], text: 'sheet' }])),
    );
    expect(inkShare(lettered as DrawnPage)).toBeLessThan(inkShare(plain as DrawnPage));
  });

  test('with large images can be drawn again after their images were freed', async () => {
    const colors = [0, 1, 2].map((index): Color => [index * 40, 255 - index * 40, 128]);
    const drawn = await draw(await save(scannedPdf(colors)), 72, [1, 2, 3, 2, 2, 1]);
    expect(drawn.map((raw) => colorAt(raw, 0.5, 0.5))).toEqual([0, 1, 2, 1, 1, 0].map((index) => colors[index]));
  });

  test('that share an image all show it', async () => {
    const data = Buffer.alloc(600 * 500 * 3).fill(Buffer.from(YELLOW));
    const file = await save(
      pagesPdf(Array(6).fill('200 0 0 300 0 0 cm /Image0 Do'), '/Image0 3 0 R', [
        imageObject(600, 500, '/ColorSpace /DeviceRGB', data, 8),
      ]),
    );
    expect((await draw(file)).map((raw) => colorAt(raw, 0.5, 0.5))).toEqual(Array(6).fill(YELLOW));
  });

  test('stay in order when the document is opened again after the hundredth', async () => {
    const colors = Array.from({ length: 130 }, (_, index): Color => [index, 255 - index, 128]);
    const drawn = await draw(await save(await makePdf(colors.map((color) => ({ color, width: 20, height: 20 })))));
    expect(drawn.map((raw) => colorAt(raw, 0.5, 0.5))).toEqual(colors);
  });
});

describeBoth('large images of two colours', () => {
  // 4200 x 4000 pixels: the left half black, in the right half every second column too.
  const row = Buffer.alloc(525).fill(0x55, 262).fill(0x00, 0, 262);
  const bits = Buffer.concat(Array.from({ length: 4000 }, () => row));

  test('a picture is shrunk to the mean of its pixels', async () => {
    const [raw] = (await draw(await save(imagePdf('/ColorSpace /DeviceGray', bits)))) as [DrawnPage];
    expect(colorAt(raw, 0.25, 0.5)).toEqual([0, 0, 0]);
    for (const value of colorAt(raw, 0.75, 0.5)) expect(Math.abs(value - 128)).toBeLessThan(8);
  });

  test('a stencil paints in the colour of the page', async () => {
    const [raw] = (await draw(await save(imagePdf('/ImageMask true', bits)))) as [DrawnPage];
    expect(colorAt(raw, 0.25, 0.5)).toEqual([255, 0, 0]);
    expect(colorAt(raw, 0.75, 0.5)[0]).toBe(255);
    for (const value of colorAt(raw, 0.75, 0.5).slice(1)) expect(Math.abs(value - 128)).toBeLessThan(8);
  });

  test('a page with colours after grey rows keeps them', async () => {
    const pixels = Buffer.alloc(4200 * 4000 * 3, 255).fill(Buffer.from(BLUE), 4200 * 3000 * 3);
    const [raw] = (await draw(await save(imagePdf('/ColorSpace /DeviceRGB', pixels, 8)))) as [DrawnPage];
    expect([colorAt(raw, 0.5, 0.5), colorAt(raw, 0.5, 0.9)]).toEqual([WHITE, BLUE]);
  });
});

describeBoth('passwords', () => {
  test('the right password opens the file in its colours', async () => {
    const [raw] = (await draw(await save(encryptedPdf('secret', GREEN)), 72, undefined, 'secret')) as [DrawnPage];
    expect(colorAt(raw, 0.5, 0.5)).toEqual(GREEN);
  });

  test.each([
    [null, 'encrypted_pdf'],
    ['', 'encrypted_pdf'],
    ['guess', 'wrong_password'],
  ])('the password %j fails with %s', async (password, code) => {
    const file = await save(encryptedPdf('secret'));
    await expect(openPdf(file, password)).rejects.toEqual(expect.objectContaining({ code, retryable: false }));
  });

  test('an unnecessary password is ignored', async () => {
    expect(await draw(await save(await makePdf([{ color: RED }])), 72, [1], 'needless')).toHaveLength(1);
  });
});

describeBoth('damage', () => {
  const corrupt = expect.objectContaining({ code: 'corrupt_file', retryable: false });

  test.each([
    ['text', Buffer.from('hello')],
    ['nothing', Buffer.alloc(0)],
    ['a header alone', Buffer.from('%PDF-1.7\n')],
    ['a PDF without pages', emptyPdf()],
  ])('%s is refused', async (_, data) => {
    await expect(openPdf(await save(data), null)).rejects.toEqual(corrupt);
  });

  test('a PDF without its end is repaired, and refused without its pages', async () => {
    const whole = writtenPlainly();
    const [raw] = (await draw(await save(whole.subarray(0, whole.indexOf('startxref'))))) as [DrawnPage];
    expect(colorAt(raw, 0.5, 0.5)).toEqual([255, 0, 0]);
    await expect(openPdf(await save(whole.subarray(0, 40)), null)).rejects.toEqual(corrupt);
  });

  test('a missing file is not reported as corrupt', async () => {
    await expect(openPdf(path.join(folder, 'absent.pdf'), null)).rejects.toEqual(
      expect.objectContaining({ code: 'ENOENT' }),
    );
  });

  test('the error of a missing page contains its number', async () => {
    const document = await openPdf(await save(await makePdf([{ color: RED }])), null);
    await expect(document.pageBox(2)).rejects.toEqual(
      expect.objectContaining({ code: 'corrupt_file', message: 'page 2 cannot be read' }),
    );
    await expect(document.render(2, 1)).rejects.toEqual(corrupt);
    expect(colorAt(await document.render(1, 1), 0.5, 0.5)).toEqual(RED);
    await document.close();
  });
});

describeBoth('corpus', () => {
  inCorpus.each([
    ['90ms_rksj_h_sample.pdf', 'a predefined cmap'],
    ['ZapfDingbats.pdf', 'a standard font'],
    ['bitmap-p32-eof.pdf', 'JBIG2'],
    ['bitmap-symbol-symbolrefineone-template1.pdf', 'JBIG2 symbols'],
    ['issue19326.pdf', 'JPX'],
    ['tracemonkey.pdf', 'embedded fonts'],
  ])('%s has ink: %s (needs the corpus)', async (name) => {
    const [raw] = (await draw(path.join(CORPUS, name), 60, [1])) as [DrawnPage];
    expect(inkShare(raw)).toBeGreaterThan(0.00002);
  });
});

inCorpus('a CJK font that is not embedded is drawn as boxes by pdf-to-img (needs the corpus)', async () => {
  openPdf = openWithPdfToImg;
  const [raw] = (await draw(path.join(CORPUS, 'noembed-sjis.pdf'), 60, [1])) as [DrawnPage];
  expect(inkShare(raw)).toBeGreaterThan(0.00002);
});

/** One red page, its objects uncompressed. */
function writtenPlainly(): Buffer {
  return pagesPdf(['1 0 0 rg 0 0 200 300 re f'], '', []);
}

/** One page of 200x300 points, filled with one image of 4200x4000 pixels. */
function imagePdf(kind: string, data: Buffer, bits = 1): Buffer {
  return pagesPdf(['1 0 0 rg 200 0 0 300 0 0 cm /Image0 Do'], '/Image0 3 0 R', [
    imageObject(4200, 4000, kind, data, bits),
  ]);
}

/** A page for each colour, filled with an image of 2000x1500 pixels of it. */
function scannedPdf(colors: Color[]): Buffer {
  const images = colors.map((color) => {
    const data = Buffer.alloc(2000 * 1500 * 3).fill(Buffer.from(color));
    return imageObject(2000, 1500, '/ColorSpace /DeviceRGB', data, 8);
  });
  const names = images.map((_, index) => `/Image${index} ${3 + index} 0 R`).join(' ');
  return pagesPdf(
    images.map((_, index) => `200 0 0 300 0 0 cm /Image${index} Do`),
    names,
    images,
  );
}

function imageObject(width: number, height: number, kind: string, data: Buffer, bits: number): string {
  const dictionary = `/Subtype /Image /Width ${width} /Height ${height} ${kind} /BitsPerComponent ${bits} /Length ${data.length}`;
  return `<< ${dictionary} >>\nstream\n${data.toString('latin1')}\nendstream`;
}

/** Pages of 200x300 points with the given contents; `images` are objects 3 and up, as named in `names`. */
function pagesPdf(contents: string[], names: string, images: string[]): Buffer {
  const first = 3 + images.length;
  const kids = contents.map((_, index) => `${first + index * 2} 0 R`).join(' ');
  const pages = contents.flatMap((content, index) => [
    `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Resources << /XObject << ${names} >> >> /Contents ${first + index * 2 + 1} 0 R >>`,
    `<< /Length ${content.length} >>\nstream\n${content}\nendstream`,
  ]);
  const catalog = '<< /Type /Catalog /Pages 2 0 R >>';
  return writePdf([catalog, `<< /Type /Pages /Kids [${kids}] /Count ${contents.length} >>`, ...images, ...pages], '');
}
