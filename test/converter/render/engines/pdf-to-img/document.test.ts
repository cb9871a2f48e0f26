import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import type { DrawnPage } from '../../../../../converter/render/engines/engine.ts';
import { openWithPdfToImg } from '../../../../../converter/render/engines/pdf-to-img/document.ts';
import { FONT_FAMILIES } from '../../../../../converter/render/fonts.ts';
import { writePdf } from '../../../../support/files.ts';

const DRAW = fileURLToPath(new URL('./draw.ts', import.meta.url));
const withPrlimit = spawnSync('prlimit', ['--version']).status === 0 ? test : test.skip;
const run = promisify(execFile);
let folder: string;
let files = 0;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pdf-to-img-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function save(data: Buffer): Promise<string> {
  const file = path.join(folder, `${files++}.pdf`);
  await writeFile(file, data);
  return file;
}

async function draw(pdf: Buffer, scale = 1): Promise<DrawnPage> {
  const document = await openWithPdfToImg(await save(pdf), null);
  try {
    return await document.render(1, scale);
  } finally {
    await document.close();
  }
}

interface Line {
  page: number | null;
  hash?: string;
  complaints?: string[];
  code?: string;
  retryable?: boolean;
  crash?: string;
}

/** Draws files in another process, since a test runner replaces the console and hides unhandled rejections. */
async function drawApart(pdfs: Buffer[], env: Record<string, string> = {}): Promise<Line[]> {
  const saved = await Promise.all(pdfs.map(save));
  const { stdout } = await run(process.execPath, [DRAW, ...saved], { env: { PATH: process.env.PATH, ...env } });
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
}

function colorAt({ data, width, height }: DrawnPage, across: number, down: number): number[] {
  const at = (Math.floor(height * down) * width + Math.floor(width * across)) * 4;
  return [...data.subarray(at, at + 3)];
}

function stream(dictionary: string, data: Buffer | string): string {
  const bytes = Buffer.from(data);
  return `<< ${dictionary} /Length ${bytes.length} >>\nstream\n${bytes.toString('latin1')}\nendstream`;
}

/** One page of 200 x 100 points; `others` are objects 5 and up. */
function pagePdf(content: string, resources: string, others: string[] = [], trailer = ''): Buffer {
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Resources << ${resources} >> /Contents 4 0 R >>`,
      stream('', content),
      ...others,
    ],
    trailer,
  );
}

/** Saves a PDF of one page that states another number of pages. */
function withCount(count: string): Promise<string> {
  const pdf = pagePdf('', '').toString('latin1').replace('/Count 1', `/Count ${count}`);
  return save(Buffer.from(pdf, 'latin1'));
}

/** A page that one image fills. */
function imagePdf(dictionary: string, data: Buffer, others: string[] = []): Buffer {
  const image = stream(`/Subtype /Image ${dictionary}`, data);
  return pagePdf('200 0 0 100 0 0 cm /I Do', '/XObject << /I 5 0 R >>', [image, ...others]);
}

/** A page with a line of text in the font that object 5 describes. */
function textPdf(text: string, font: string, others: string[] = []): Buffer {
  return pagePdf(`BT /F 20 Tf 10 40 Td ${text} Tj ET`, '/Font << /F 5 0 R >>', [font, ...others]);
}

/** How much of the page is ink, from 0 to 1. */
function ink({ data }: DrawnPage): number {
  let sum = 0;
  for (let at = 0; at < data.length; at += 4) sum += 255 - (data[at] ?? 255);
  return sum / 255 / (data.length / 4);
}

/** The mean difference of two pages, as a share of their ink. */
function difference(one: DrawnPage, other: DrawnPage): number {
  let sum = 0;
  for (let at = 0; at < one.data.length; at += 4) sum += Math.abs((one.data[at] ?? 0) - (other.data[at] ?? 0));
  return sum / 255 / (one.data.length / 4) / (ink(one) + ink(other));
}

describe('a font that is not embedded', () => {
  type Style = 'regular' | 'bold' | 'italic';
  const simple = (name: string, flags: number, widths: number[]) => [
    `<< /Type /Font /Subtype /TrueType /BaseFont /${name} /FirstChar 32 /LastChar 126 /Widths [${widths.join(' ')}] /FontDescriptor 6 0 R /Encoding /WinAnsiEncoding >>`,
    `<< /Type /FontDescriptor /FontName /${name} /Flags ${flags} /FontBBox [-600 -300 1200 1000] /ItalicAngle 0 /Ascent 900 /Descent -200 /CapHeight 700 /StemV 80 >>`,
  ];
  /** As the canvas library measures the letters from space to tilde; pdf.js squeezes letters that are wider. */
  function widthsOf(family: string, style: Style): number[] {
    const { createRequire } = process.getBuiltinModule('node:module');
    const pdfjs = createRequire(createRequire(import.meta.url).resolve('pdf-to-img')).resolve(
      'pdfjs-dist/package.json',
    );
    const context = createRequire(pdfjs)('@napi-rs/canvas').createCanvas(1, 1).getContext('2d');
    context.font = `${style === 'regular' ? '' : style} 1000px "${family}"`;
    return Array.from({ length: 95 }, (_, index) => context.measureText(String.fromCharCode(32 + index)).width);
  }
  function named(text: string, name: string, flags: number, widths: number[]): Promise<DrawnPage> {
    const [font = '', ...others] = simple(name, flags, widths);
    return draw(textPdf(text, font, others), 2);
  }
  function embedded(text: string, family: string, style: Style, widths: number[]): Promise<DrawnPage> {
    const file = FONT_FAMILIES.find(({ name }) => name === family)?.[style];
    const [font = '', descriptor = ''] = simple('ABCDEF+Embedded', 32, widths);
    const others = [descriptor.replace('/StemV', '/FontFile2 7 0 R /StemV'), stream('', readFileSync(file ?? ''))];
    return draw(textPdf(text, font, others), 2);
  }

  test.each([
    ['ArialMT', 'Arimo', 'regular', 32],
    ['Verdana', 'Arimo', 'regular', 32],
    ['Arial,Bold', 'Arimo', 'bold', 32],
    ['Helvetica', 'Arimo', 'regular', 32],
    ['Calibri', 'Carlito', 'regular', 32],
    ['Calibri-Bold', 'Carlito', 'bold', 32],
    ['Cambria', 'Caladea', 'regular', 34],
    ['Georgia', 'Tinos', 'regular', 34],
    ['TimesNewRoman,Italic', 'Tinos', 'italic', 34],
    ['CourierNewPSMT', 'Cousine', 'regular', 33],
  ] as const)('%s looks like the embedded %s %s', async (name, family, style, flags) => {
    const text = '(Hamburgefonstiv)';
    const widths = widthsOf(family, style);
    const drawn = await named(text, name, flags, widths);
    const own = difference(drawn, await embedded(text, family, style, widths));
    expect(own).toBeLessThan(0.25);
    for (const other of ['Arimo', 'Tinos', 'Carlito', 'Caladea', 'Cousine']) {
      if (other === family) continue;
      expect(difference(drawn, await embedded(text, other, style, widths))).toBeGreaterThan(own * 1.5);
    }
  });

  test.each([
    ['Czech', '/scaron /ccaron /rcaron /zcaron'],
    ['Cyrillic', '/afii10017 /afii10018 /afii10049 /afii10065'],
    ['Greek', '/alpha /beta /Omega /pi'],
  ])('has different glyphs for %s letters', async (_, names) => {
    for (const font of ['Helvetica', 'Times-Roman', 'Courier', 'Verdana']) {
      const encoding = `<< /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [65 ${names}] >>`;
      const dictionary = `<< /Type /Font /Subtype /Type1 /BaseFont /${font} /Encoding ${encoding} >>`;
      const letters = await Promise.all(['A', 'B', 'C', 'D'].map((letter) => draw(textPdf(`(${letter})`, dictionary))));
      for (const letter of letters) expect(ink(letter)).toBeGreaterThan(0.001);
      for (const letter of letters.slice(1)) expect(difference(letter, letters[0] ?? letter)).toBeGreaterThan(0.1);
    }
  });

  test.each([
    ['Japanese', 'HeiseiMin-W3', 'UniJIS-UCS2-H', 'Japan1', '日本語テ'],
    ['Simplified Chinese', 'STSong-Light', 'UniGB-UCS2-H', 'GB1', '中文测试'],
    ['Traditional Chinese', 'MSung-Light', 'UniCNS-UCS2-H', 'CNS1', '繁體測試'],
    ['Korean', 'HYSMyeongJo-Medium', 'UniKS-UCS2-H', 'Korea1', '한국어테'],
    ['Japanese in an unknown font', 'Nobody', 'UniJIS-UCS2-H', 'Japan1', '日本語テ'],
  ])('has different glyphs for %s letters', async (_, name, encoding, ordering, text) => {
    const others = [
      `<< /Type /Font /Subtype /CIDFontType0 /BaseFont /${name} /CIDSystemInfo << /Registry (Adobe) /Ordering (${ordering}) /Supplement 2 >> /DW 1000 /FontDescriptor 7 0 R >>`,
      `<< /Type /FontDescriptor /FontName /${name} /Flags 6 /FontBBox [0 -200 1000 900] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>`,
    ];
    const font = `<< /Type /Font /Subtype /Type0 /BaseFont /${name} /Encoding /${encoding} /DescendantFonts [6 0 R] >>`;
    const letters = await Promise.all(
      [...text].map((letter) => {
        const code = (letter.codePointAt(0) ?? 0).toString(16).padStart(4, '0');
        return draw(textPdf(`<${code}>`, font, others));
      }),
    );
    // An empty box, which stands for a missing letter, looks the same for each of them.
    for (const letter of letters) expect(ink(letter)).toBeGreaterThan(0.002);
    for (const letter of letters.slice(1)) expect(difference(letter, letters[0] ?? letter)).toBeGreaterThan(0.2);
  });

  test('looks the same whether the machine has fonts or not', async () => {
    const names = ['Helvetica', 'Verdana', 'Georgia', 'DejaVuSans', 'LiberationSans', 'Nobody'];
    const pdfs = names.map((name) => {
      const [font = '', ...others] = simple(name, 32, widthsOf('Arimo', 'regular'));
      return textPdf('(Hamburgefonstiv)', font, others);
    });
    const hashes = (lines: Line[]) => lines.map(({ hash }) => hash);
    const without = hashes(await drawApart(pdfs, { DISABLE_SYSTEM_FONTS_LOAD: '1' }));
    expect(without).toHaveLength(names.length);
    expect(hashes(await drawApart(pdfs))).toEqual(without);
  });
});

describe('colours', () => {
  test.each([
    ['0 1 0 0', [236, 0, 140]],
    ['0 0 0 1', [35, 31, 32]],
    ['1 0 0 0', [0, 174, 239]],
  ])('CMYK %s is %j', async (cmyk, expected) => {
    const actual = colorAt(await draw(pagePdf(`${cmyk} k 0 0 200 100 re f`, '')), 0.5, 0.5);
    for (const [index, value] of expected.entries()) expect(Math.abs((actual[index] ?? 0) - value)).toBeLessThan(6);
  });

  test('are converted by their ICC profile, in shapes and images', async () => {
    const pixels = { create: { width: 8, height: 8, channels: 3 as const, background: { r: 200, g: 120, b: 60 } } };
    const tagged = await sharp(pixels).withIccProfile('p3', { attach: true }).png().toBuffer();
    const { icc = Buffer.alloc(0) } = await sharp(tagged).metadata();
    const profile = stream('/N 3', icc);
    const raw = Buffer.alloc(64 * 3).fill(Buffer.from([200, 120, 60]));
    const shape = pagePdf(
      '/C cs 0.78431 0.47059 0.23529 sc 0 0 200 100 re f',
      '/ColorSpace << /C [/ICCBased 5 0 R] >>',
      [profile],
    );
    const image = imagePdf('/Width 8 /Height 8 /BitsPerComponent 8 /ColorSpace [/ICCBased 6 0 R]', raw, [profile]);
    // Display P3 has the transfer function of sRGB; this is the colour by its definition.
    const expected = [213, 115, 42];
    for (const pdf of [shape, image]) {
      const actual = colorAt(await draw(pdf), 0.5, 0.5);
      for (const [index, value] of expected.entries()) expect(Math.abs((actual[index] ?? 0) - value)).toBeLessThan(4);
    }
  });
});

describe('a file that pdf.js cannot open', () => {
  test.each(['-1', '0', '-2147483648'])('has a page count of %s', async (count) => {
    await expect(openWithPdfToImg(await withCount(count), null)).rejects.toMatchObject({ code: 'corrupt_file' });
  });

  test.each([
    ['/Filter /Adobe.PubSec /SubFilter /adbe.pkcs7.s5 /V 4', 'certificate encryption is not supported'],
    ['/Filter /Unknown.Handler /V 4', 'the encryption of the PDF is not supported'],
    ['/Filter /Standard /V 9 /R 9 /O () /U () /P -4', 'the encryption of the PDF is not supported'],
  ])('is encrypted with %s', async (dictionary, message) => {
    const trailer = '/Encrypt 5 0 R /ID [<00> <00>]';
    const file = await save(pagePdf('', '', [`<< ${dictionary} >>`], trailer));
    await expect(openWithPdfToImg(file, null)).rejects.toEqual(
      expect.objectContaining({ code: 'unsupported_feature', message, retryable: false }),
    );
  });
});

test.each(['0.5', '/Many'])('a file with the page count %s has the pages that pdf.js finds', async (count) => {
  const document = await openWithPdfToImg(await withCount(count), null);
  expect(document.pageCount).toBe(1);
  await document.close();
});

describe('a page that cannot be drawn completely', () => {
  const gray = '/ColorSpace /DeviceGray';

  test('has a complaint for each missing part', async () => {
    const shapes = '1 0 0 rg 0 0 200 100 re f\n'.repeat(400);
    const cut = deflateSync(shapes).subarray(0, -12);
    const content = writePdf(
      [
        '<< /Type /Catalog /Pages 2 0 R >>',
        '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
        '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R >>',
        stream('/Filter /FlateDecode', cut),
      ],
      '',
    );
    const junk = Buffer.from('This is no image of any kind, whatever its filter says.');
    const lines = await drawApart([
      pagePdf('1 0 0 rg 0 0 200 100 re f', ''),
      imagePdf(`/Width 9 /Height 9 /BitsPerComponent 1 ${gray} /Filter /JBIG2Decode`, junk),
      imagePdf(`/Width 9 /Height 9 /BitsPerComponent 8 ${gray} /Filter /DCTDecode`, junk),
      imagePdf(`/Width 9 /Height 9 /BitsPerComponent 8 ${gray} /Filter /JPXDecode`, junk),
      content,
      // pdf.js prints no warning for this one.
      pagePdf('1 0 0 rg 0 0 200 100 re f', '/Pattern 5 0 R', [')']),
    ]);
    expect(lines.map(({ complaints }) => complaints)).toEqual([
      [],
      ['an image cannot be decoded'],
      ['an image cannot be decoded'],
      ['an image cannot be decoded'],
      ['a part of the page cannot be read'],
      ['a part of the page cannot be read'],
    ]);
  });

  withPrlimit('fails with a retryable error when memory is too small', async () => {
    const side = 24_000;
    const parameters = `/Filter /CCITTFaxDecode /DecodeParms << /K -1 /Columns ${side} /Rows ${side} >>`;
    // Each bit stands for a white row.
    const white = imagePdf(
      `/Width ${side} /Height ${side} /BitsPerComponent 1 ${gray} ${parameters}`,
      Buffer.alloc(side / 8, 255),
    );
    const bits = deflateSync(Buffer.alloc((8000 / 8) * 8000, 0x55));
    const lines = await drawApart(
      [
        pagePdf('1 0 0 rg 0 0 200 100 re f', ''),
        // The first fails when its bits are unpacked, the second when a canvas is made for it.
        white,
        imagePdf(`/Width 8000 /Height 8000 /BitsPerComponent 1 ${gray} /Filter /FlateDecode`, bits),
      ],
      { CAP_MB: '60' },
    );
    const tooLittle = { page: 1, code: 'out_of_memory', retryable: true };
    expect(lines).toEqual([
      expect.objectContaining({ page: 1, complaints: [] }),
      expect.objectContaining(tooLittle),
      expect.objectContaining(tooLittle),
    ]);
  });
});

describe('damaged files', () => {
  const page = (contents: number, more = '') =>
    `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents ${contents} 0 R ${more} >>`;
  const WHOLE = writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>',
      page(5, '/Resources << /ExtGState << /G 6 0 R >> /Font << /F 9 0 R >> >> /Annots [10 0 R]'),
      page(8),
      stream('', '/G gs 1 0 0 rg 0 0 50 50 re f BT /F 12 Tf (abc) Tj ET 0 0 1 rg 9 9 5 5 re f'),
      '<< /Type /ExtGState /SMask << /S /Luminosity /G 7 0 R >> >>',
      stream(
        '/Type /XObject /Subtype /Form /BBox [0 0 100 100] /Group << /S /Transparency /CS /DeviceGray >> /Resources << /XObject << /X 7 0 R >> >>',
        '1 g 0 0 40 40 re f /X Do q q',
      ),
      stream('', '0 1 0 rg 0 0 50 50 re f'),
      '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>',
      '<< /Type /Annot /Subtype /Square /Rect [10 10 30 30] /C [1 0 0] /AP << /N 7 0 R >> >>',
    ],
    '',
  );

  /** The same few bytes changed for the same seed. */
  function mutated(seed: number): Buffer {
    let state = seed + 1;
    const random = () => {
      state = (state * 16807) % 2147483647;
      return state / 2147483647;
    };
    // The first numbers of near seeds are alike.
    random();
    random();
    const bytes = Buffer.from(WHOLE);
    for (let left = 1 + Math.floor(random() * 12); left > 0; left--) {
      bytes[Math.floor(random() * bytes.length)] = 32 + Math.floor(random() * 90);
    }
    return bytes;
  }

  test('never end the process', async () => {
    const seeds = Array.from({ length: 300 }, (_, seed) => seed);
    const lines = await drawApart(seeds.map(mutated));
    expect(lines.length).toBeGreaterThan(300);
    expect(lines.filter(({ crash }) => crash !== undefined)).toEqual([]);
    const codes = new Set(lines.flatMap(({ code }) => code ?? []));
    expect([...codes]).toEqual(['corrupt_file']);
  }, 60_000);

  test('fail immediately where pdf.js would never end', async () => {
    const states = '/ExtGState << /G 5 0 R >>';
    const group = '/Type /XObject /Subtype /Form /BBox [0 0 200 100] /Group << /S /Transparency >>';
    // A group under a soft mask that restores more states than it saved.
    const unbalanced = pagePdf('/G gs q /X Do Q', `${states} /XObject << /X 7 0 R >>`, [
      '<< /Type /ExtGState /SMask << /S /Luminosity /G 6 0 R >> >>',
      stream(group, '1 g 0 0 200 100 re f'),
      stream(`${group} /Resources << ${states} >>`, '/G gs 0 0 9 9 re f Q Q'),
    ]);
    expect(await drawApart([unbalanced, WHOLE])).toEqual([
      expect.objectContaining({ page: 1, code: 'corrupt_file', retryable: false }),
      expect.objectContaining({ page: 1 }),
      expect.objectContaining({ page: 2, complaints: [] }),
    ]);
  });
});
