import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { deflateSync } from 'node:zlib';
import { PDFDocument, rgb } from 'pdf-lib';
import pixelmatch from 'pixelmatch';
import sharp from 'sharp';
import type { DrawnPage } from '../../../../../converter/render/engines/engine.ts';
import { openWithPdfToImg } from '../../../../../converter/render/engines/pdf-to-img/document.ts';
import { openWithPdfium } from '../../../../../converter/render/engines/pdfium/document.ts';
import { BLUE, type Color, encryptedPdf, GREEN, makeImage, makePdf, RED, writePdf } from '../../../../support/files.ts';
import { colorAt, drawPdf, inkOf, onePagePdf, streamObject, withFile } from '../../../../support/pdf.ts';

// Tests of both engines are in engine.test.ts.

const DOCUMENT = new URL('../../../../../converter/render/engines/pdfium/document.ts', import.meta.url).href;
const hasPrlimit = spawnSync('prlimit', ['--version']).status === 0;
const underCap = hasPrlimit ? test : test.skip;
const run = promisify(execFile);
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pdfium-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function save(data: Buffer | Uint8Array): Promise<string> {
  const file = path.join(folder, 'file.pdf');
  await writeFile(file, data);
  return file;
}

async function draw(open: typeof openWithPdfToImg, file: string, scale: number): Promise<DrawnPage> {
  const document = await open(file, null);
  try {
    return await document.render(1, scale);
  } finally {
    await document.close();
  }
}

function differingShare(one: DrawnPage, other: DrawnPage): number {
  expect([one.width, one.height]).toEqual([other.width, other.height]);
  return pixelmatch(one.data, other.data, null, one.width, one.height) / (one.width * one.height);
}

/** Text, a transparent circle, a text field and a ticked box. */
async function pageWithFields(): Promise<Uint8Array> {
  const document = await PDFDocument.create();
  const page = document.addPage([300.5, 200.25]);
  page.drawText('a form', { x: 20, y: 20, size: 16 });
  page.drawCircle({ x: 250, y: 50, size: 30, color: rgb(0, 0.5, 1), opacity: 0.5 });
  const form = document.getForm();
  const field = form.createTextField('name');
  field.setText('sheet');
  field.addToPage(page, { x: 20, y: 100, width: 100, height: 30, backgroundColor: rgb(1, 0.8, 0) });
  const box = form.createCheckBox('tick');
  box.addToPage(page, { x: 200, y: 100, width: 40, height: 40 });
  box.check();
  return document.save();
}

describe('pixels', () => {
  test.each([
    ['a rotation', () => makePdf([{ color: GREEN, width: 120, height: 50, rotate: 90 }])],
    ['text', () => makePdf([{ color: BLUE, text: 'sheet' }])],
    ['a UserUnit', () => makePdf([{ color: RED, userUnit: 1.5 }])],
    ['fields and transparency', pageWithFields],
  ])('are close to those of pdf-to-img on a page with %s', async (_, make) => {
    const file = await save(await make());
    const [first, second] = [await draw(openWithPdfToImg, file, 1.7), await draw(openWithPdfium, file, 1.7)];
    expect(differingShare(first, second)).toBeLessThan(0.006);
  });

  test('are opaque, and grey text stays grey', async () => {
    const { data } = await draw(openWithPdfium, await save(await makePdf([{ color: [0, 0, 0], text: 'sheet' }])), 2);
    for (let at = 0; at < data.length; at += 4) {
      if (data[at] !== data[at + 1] || data[at] !== data[at + 2] || data[at + 3] !== 255) throw new Error(`at ${at}`);
    }
  });

  test('include the fields of the page', async () => {
    const { data, width } = await draw(openWithPdfium, await save(await pageWithFields()), 1);
    const at = (80 * width + 110) * 4;
    expect([...data.subarray(at, at + 3)]).toEqual([255, 204, 0]);
  });
});

describe('images', () => {
  const garbage = (size: string) =>
    streamObject(`/Subtype /Image ${size} /ColorSpace /DeviceRGB /Filter /DCTDecode`, 'no JPEG');

  test('are found in forms within forms, and not decoded', async () => {
    const form = (inner: string) =>
      streamObject(`/Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /Inner ${inner} >> >>`, '/Inner Do');
    const file = await save(
      onePagePdf({
        content: '/Outer Do 5 0 0 5 0 0 cm /Image Do /Image Do',
        resources: '/XObject << /Outer 5 0 R /Image 8 0 R >>',
        objects: [
          form('6 0 R'),
          form('7 0 R'),
          garbage('/Width 30000 /Height 20000 /BitsPerComponent 8'),
          garbage('/Width 3 /Height 2 /BitsPerComponent 8'),
        ],
      }),
    );
    const document = await openWithPdfium(file, null);
    expect(await document.images(1)).toEqual([
      { width: 30000, height: 20000 },
      { width: 3, height: 2 },
      { width: 3, height: 2 },
    ]);
    await document.close();
  });

  test('are an empty list on a page without images, and an error on a missing page', async () => {
    const document = await openWithPdfium(await save(await makePdf([{ color: RED }])), null);
    expect(await document.images(1)).toEqual([]);
    await expect(document.images(2)).rejects.toMatchObject({ code: 'corrupt_file', retryable: false });
    await document.close();
  });
});

describe('documents', () => {
  test('that fail do not affect the next one', async () => {
    const corrupt = await save(Buffer.from('%PDF-1.7\nno'));
    await expect(openWithPdfium(corrupt, null)).rejects.toMatchObject({ code: 'corrupt_file' });
    const encrypted = await save(encryptedPdf('secret'));
    await expect(openWithPdfium(encrypted, null)).rejects.toMatchObject({ code: 'encrypted_pdf' });
    const { width } = await draw(openWithPdfium, await save(await makePdf([{ color: RED }])), 1);
    expect(width).toBe(200);
  });

  test('may be open at the same time', async () => {
    const first = await openWithPdfium(await save(await makePdf([{ color: RED }])), null);
    const second = await openWithPdfium(await save(await makePdf([{ color: BLUE }, { color: GREEN }])), null);
    // Pixels hold until the next call of the same document.
    const colorOf = async (drawing: Promise<DrawnPage>) => colorAt(await drawing, 100, 150);
    const drawn = [colorOf(first.render(1, 1)), colorOf(second.render(2, 1)), first.close()] as const;
    const more = [colorOf(second.render(1, 1)), second.close()] as const;
    expect(await Promise.all([...drawn, ...more])).toEqual([RED, GREEN, undefined, BLUE, undefined]);
  });

  test('free their memory', async () => {
    const file = await save(Buffer.concat([await makePdf([{ color: RED, text: 'sheet' }]), Buffer.alloc(4_000_000)]));
    // A separate process, because other test files leave garbage in this one.
    const script = `
      import { openWithPdfium } from ${JSON.stringify(DOCUMENT)};
      const many = async () => {
        for (let round = 0; round < 15; round++) {
          const document = await openWithPdfium(${JSON.stringify(file)}, null);
          await document.render(1, 1);
          await document.close();
        }
        for (let round = 0; round < 3; round++) {
          gc();
          await new Promise(setImmediate);
        }
        const { external, arrayBuffers, heapUsed } = process.memoryUsage();
        return external + arrayBuffers + heapUsed;
      };
      await many();
      const before = await many();
      console.log(await many() - before);`;
    const { stdout } = await run(process.execPath, ['--expose-gc', '--input-type=module', '-e', script]);
    // One document that is kept would count 4 MB and an instance.
    expect(Number(stdout)).toBeLessThan(4_000_000);
  });
});

describe('under a cap', () => {
  const side = 5000;
  const grey = `/Subtype /Image /Width ${side} /Height ${side} /ColorSpace /DeviceGray /BitsPerComponent 8`;

  /** Draws the file with `roomMb` more memory than the engine has by then, then again with all that there is. */
  async function drawTwice(file: string, roomMb: number) {
    const small = path.join(folder, 'small.pdf');
    await writeFile(small, await makePdf([{ color: RED }]));
    const script = `
      import { execFileSync } from 'node:child_process';
      import { readFileSync } from 'node:fs';
      import { openWithPdfium } from ${JSON.stringify(DOCUMENT)};
      const cap = (bytes) => execFileSync('prlimit', ['--pid', process.pid, '--data=' + bytes + ':']);
      const draw = (document) => document.render(1, 1).then(({ data }) => data[120200], ({ code, retryable }) => ({ code, retryable }));
      const warm = await openWithPdfium(${JSON.stringify(small)}, null);
      await draw(warm);
      const document = await openWithPdfium(${JSON.stringify(file)}, null);
      const used = Number(/VmData:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
      cap(used + ${roomMb * 2 ** 20});
      const capped = await draw(document);
      cap('unlimited');
      console.log(JSON.stringify({ capped, uncapped: await draw(document), other: await draw(warm) }));`;
    const { stdout, stderr } = await run(process.execPath, ['--input-type=module', '-e', script]);
    expect(stderr).toBe('');
    return JSON.parse(stdout);
  }

  underCap('an image that PDFium would omit without an error is an error', async () => {
    // So large that V8 has all the memory it needs where PDFium has too little.
    const large = deflateSync(Buffer.alloc(4 * side * side, 200)).toString('latin1');
    const size = `/Subtype /Image /Width ${2 * side} /Height ${2 * side} /ColorSpace /DeviceGray /BitsPerComponent 8`;
    const image = streamObject(`${size} /Filter /FlateDecode /SMask 6 0 R`, large);
    const mask = streamObject(`${size} /Filter /FlateDecode`, large);
    const file = await save(
      onePagePdf({
        content: '200 0 0 300 0 0 cm /Image Do',
        resources: '/XObject << /Image 5 0 R >>',
        objects: [image, mask],
      }),
    );
    expect(await drawTwice(file, 55)).toEqual({
      capped: { code: 'out_of_memory', retryable: true },
      uncapped: 211,
      other: RED[0],
    });
  });

  underCap('a trap from lack of memory is an error that ends neither this document nor others', async () => {
    const hex = deflateSync(Buffer.alloc(side * side * 2, 'c8')).toString('latin1');
    const image = streamObject(`${grey} /Filter [/FlateDecode /ASCIIHexDecode]`, hex);
    const file = await save(
      onePagePdf({
        content: '200 0 0 300 0 0 cm /Image Do',
        resources: '/XObject << /Image 5 0 R >>',
        objects: [image],
      }),
    );
    expect(await drawTwice(file, 55)).toEqual({
      capped: { code: 'out_of_memory', retryable: true },
      uncapped: 200,
      other: RED[0],
    });
  });
});

describe('page trees', () => {
  const page = (content: number) => `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents ${content} 0 R >>`;
  const fill = (color: Color) => streamObject('', `${color.map((value) => value / 255).join(' ')} rg 0 0 200 300 re f`);
  const tree = (kids: string, count: string) =>
    writePdf(
      ['<< /Type /Catalog /Pages 2 0 R >>', `<< /Type /Pages /Kids [${kids}] ${count} >>`].concat(
        page(5),
        page(6),
        fill(RED),
        fill(BLUE),
      ),
      '',
    );

  async function colors(pdf: Buffer): Promise<number[][]> {
    return withFile(pdf, async (file) => {
      const document = await openWithPdfium(file, null);
      const drawn: number[][] = [];
      for (let number = 1; number <= document.pageCount; number++) {
        drawn.push(colorAt(await document.render(number, 0.1), 10, 10));
      }
      await document.close();
      return drawn;
    });
  }

  test.each(['/Count 2', '/Count -1', '/Count -2147483648', '/Count 0', '/Count 2147483647', '/Count (many)', ''])(
    'with %s have the pages that they list',
    async (count) => {
      expect(await colors(tree('3 0 R 4 0 R', count))).toEqual([RED, BLUE]);
    },
  );

  test.each(['/Count 4', '/Count -4', ''])('with %s may list a page several times', async (count) => {
    expect(await colors(tree('3 0 R 4 0 R 3 0 R 3 0 R', count))).toEqual([RED, BLUE, RED, RED]);
  });
});

describe('a UserUnit', () => {
  const sizes = (pdf: Buffer) =>
    withFile(pdf, async (file) => {
      const document = await openWithPdfium(file, null);
      const boxes = [];
      for (let page = 1; page <= document.pageCount; page++) boxes.push(await document.pageBox(page));
      const { width, height } = await document.render(1, 1);
      await document.close();
      return [...boxes, { width, height }];
    });

  test('multiplies the size of its page', async () => {
    const whole = { width: 500, height: 750 };
    expect(await sizes(onePagePdf({ page: '/UserUnit 2.5' }))).toEqual([whole, whole]);
    expect(await sizes(onePagePdf({ page: '/UserUnit 2.5 /Rotate 90' }))).toEqual(
      Array(2).fill({ width: 750, height: 500 }),
    );
    expect(await sizes(onePagePdf({ page: '/UserUnit .5' }))).toEqual(Array(2).fill({ width: 100, height: 150 }));
  });

  test.each(['/UserUnit 0', '/UserUnit -1', '/UserUnit (big)', ''])(
    'counts as 1 if it is missing or invalid: %j',
    async (entry) => {
      expect(await sizes(onePagePdf({ page: entry }))).toEqual(Array(2).fill({ width: 200, height: 300 }));
    },
  );

  test('is found in object streams, page by page', async () => {
    const pdf = await makePdf([{ color: RED, userUnit: 2 }, { color: RED }, { color: RED, userUnit: 0.5 }]);
    expect(pdf.includes('/UserUnit')).toBe(false);
    expect(await sizes(pdf)).toEqual([
      { width: 400, height: 600 },
      { width: 200, height: 300 },
      { width: 100, height: 150 },
      { width: 400, height: 600 },
    ]);
  });

  test('is read from the newest version of a page', async () => {
    const pdf = onePagePdf({ page: '/UserUnit 3' });
    const object = '3 0 obj\n<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /UserUnit 2 >>\nendobj\n';
    const table = `xref\n3 1\n${String(pdf.length).padStart(10, '0')} 00000 n \n`;
    const start = /startxref\n(\d+)/.exec(pdf.toString('latin1'))?.[1];
    const trailer = `trailer\n<< /Size 5 /Root 1 0 R /Prev ${start} >>\nstartxref\n${pdf.length + object.length}\n%%EOF\n`;
    const updated = Buffer.concat([pdf, Buffer.from(object + table + trailer)]);
    expect((await sizes(updated))[0]).toEqual({ width: 400, height: 600 });
  });
});

describe('colours', () => {
  function expectNear(color: number[], expected: readonly number[]): void {
    for (const [index, value] of expected.entries()) expect(Math.abs((color[index] ?? 0) - value)).toBeLessThan(6);
  }

  test('are converted by their ICC profile, in fills and in images', async () => {
    const png = await makeImage({ space: 'p3', color: RED });
    const profile = (await sharp(png).metadata()).icc ?? Buffer.alloc(0);
    const stored = (await sharp(png).keepIccProfile().raw().toBuffer()).subarray(0, 3);
    expect([...stored]).not.toEqual(RED);
    const fill = [...stored].map((value) => value / 255).join(' ');
    const drawn = await drawPdf(
      onePagePdf({
        content: `/Profile cs ${fill} sc 0 0 100 300 re f 100 0 0 300 100 0 cm /Image Do`,
        resources: '/ColorSpace << /Profile [/ICCBased 5 0 R] >> /XObject << /Image 6 0 R >>',
        objects: [
          streamObject('/N 3', profile),
          streamObject('/Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace [/ICCBased 5 0 R]', stored),
        ],
      }),
    );
    expectNear(colorAt(drawn, 50, 150), RED);
    expectNear(colorAt(drawn, 150, 150), RED);
  });

  test.each([
    ['cyan', '1 0 0 0', [0, 174, 239]],
    ['magenta', '0 1 0 0', [236, 0, 140]],
    ['yellow', '0 0 1 0', [255, 242, 0]],
    ['black', '0 0 0 1', [35, 31, 32]],
    ['nothing', '0 0 0 0', [255, 255, 255]],
  ] as const)('in CMYK are those of print: %s', async (_, values, expected) => {
    const bytes = Buffer.from(values.split(' ').map((value) => Number(value) * 255));
    const drawn = await drawPdf(
      onePagePdf({
        content: `${values} k 0 0 100 300 re f 100 0 0 300 100 0 cm /Image Do`,
        resources: '/XObject << /Image 5 0 R >>',
        objects: [
          streamObject('/Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace /DeviceCMYK', bytes),
        ],
      }),
    );
    expectNear(colorAt(drawn, 50, 150), expected);
    expectNear(colorAt(drawn, 150, 150), expected);
  });
});

describe('content that is cut', () => {
  // Bars from the bottom to the top, one after the other, of sizes that do not compress away.
  const bars = Array.from({ length: 300 }, (_, row) => `0 ${row} ${150 + ((row * 7919) % 50)}.${row} 1 re f`).join(
    '\n',
  );
  const compressed = deflateSync(bars);

  test.each([
    ['at 90%', 0.9],
    ['at 50%', 0.5],
    ['in its first block', 0.2],
  ])('%s is drawn up to that point', async (_, share) => {
    const cut = compressed.subarray(0, Math.floor(compressed.length * share));
    const pdf = writePdf(
      [
        ...['<< /Type /Catalog /Pages 2 0 R >>', '<< /Type /Pages /Kids [3 0 R] /Count 1 >>'],
        '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>',
        streamObject('/Filter /FlateDecode', cut),
      ],
      '',
    );
    const page = await drawPdf(pdf);
    const rows = Math.floor(300 * (share - 0.15));
    expect(inkOf(page, { left: 0, top: 300 - rows, right: 150, bottom: 300 })).toBe(rows * 150);
    expect(inkOf(page, { left: 0, top: 0, right: 200, bottom: Math.floor(300 * (0.9 - share)) })).toBe(0);
    expect(page.complaints).toEqual(['the content of the page is damaged']);
  });
});

describe('an unsupported encryption', () => {
  const hex = `<${'00'.repeat(32)}>`;

  test.each([
    ['for certificates', '/Filter /Adobe.PubSec /SubFilter /adbe.pkcs7.s5 /V 4 /Length 128 /Recipients []'],
    ['by another handler', `/Filter /OurOwn /V 2 /R 3 /Length 128 /P -4 /O ${hex} /U ${hex}`],
  ])('%s is reported', async (_, encryption) => {
    const pdf = onePagePdf({ objects: [`<< ${encryption} >>`], trailer: `/Encrypt 5 0 R /ID [${hex} ${hex}]` });
    for (const password of [null, 'secret']) {
      await withFile(pdf, async (file) => {
        await expect(openWithPdfium(file, password)).rejects.toMatchObject({
          code: 'unsupported_feature',
          retryable: false,
        });
      });
    }
  });
});

const CORPUS = path.resolve('../shared/corpus/pdf');
const inCorpus = existsSync(CORPUS) ? test : test.skip;

inCorpus('a stencil of 93 megapixels is drawn with little memory (needs the corpus)', async () => {
  const document = await openWithPdfium(path.join(CORPUS, 'freeculture.pdf'), null);
  const before = process.memoryUsage().rss;
  expect(inkOf(await document.render(171, 200 / 72))).toBeGreaterThan(1000);
  expect(process.memoryUsage().rss - before).toBeLessThan(400 * 2 ** 20);
  await document.close();
});
