import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { deflateSync } from 'node:zlib';
import { PDFDocument, rgb } from 'pdf-lib';
import pixelmatch from 'pixelmatch';
import type { RawImage } from '../../../../../converter/render/engines/engine.ts';
import { openWithPdfToImg } from '../../../../../converter/render/engines/pdf-to-img/document.ts';
import { openWithPdfium } from '../../../../../converter/render/engines/pdfium/document.ts';
import { BLUE, encryptedPdf, GREEN, makePdf, RED, writePdf } from '../../../../support/files.ts';

// What both engines promise alike is in engine.test.ts.

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

async function draw(open: typeof openWithPdfToImg, file: string, scale: number): Promise<RawImage> {
  const document = await open(file, null);
  try {
    return await document.render(1, scale);
  } finally {
    await document.close();
  }
}

function differingShare(one: RawImage, other: RawImage): number {
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
    ['of a turned page', () => makePdf([{ color: GREEN, width: 120, height: 50, rotate: 90 }])],
    ['of text', () => makePdf([{ color: BLUE, text: 'sheet' }])],
    ['of a UserUnit', () => makePdf([{ color: RED, userUnit: 1.5 }])],
    ['of fields and transparency', pageWithFields],
  ])('%s are about those of pdf-to-img', async (_, make) => {
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

  test('of a field are drawn', async () => {
    const { data, width } = await draw(openWithPdfium, await save(await pageWithFields()), 1);
    const at = (80 * width + 110) * 4;
    expect([...data.subarray(at, at + 3)]).toEqual([255, 204, 0]);
  });
});

describe('images', () => {
  const garbage = (size: string) =>
    stream(`/Subtype /Image ${size} /ColorSpace /DeviceRGB /Filter /DCTDecode`, 'no JPEG');

  test('are found in forms within forms, and not decoded', async () => {
    const form = (inner: string) =>
      stream(`/Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /Inner ${inner} >> >>`, '/Inner Do');
    const file = await save(
      onePage('/Outer Do 5 0 0 5 0 0 cm /Image Do /Image Do', '/Outer 5 0 R /Image 8 0 R', [
        form('6 0 R'),
        form('7 0 R'),
        garbage('/Width 30000 /Height 20000 /BitsPerComponent 8'),
        garbage('/Width 3 /Height 2 /BitsPerComponent 8'),
      ]),
    );
    const document = await openWithPdfium(file, null);
    expect(await document.images(1)).toEqual([
      { width: 30000, height: 20000 },
      { width: 3, height: 2 },
      { width: 3, height: 2 },
    ]);
    await document.close();
  });

  test('are none on a page without, and an error on a page that is not there', async () => {
    const document = await openWithPdfium(await save(await makePdf([{ color: RED }])), null);
    expect(await document.images(1)).toEqual([]);
    await expect(document.images(2)).rejects.toMatchObject({ code: 'corrupt_file', retryable: false });
    await document.close();
  });
});

describe('documents', () => {
  test('that fail leave the next one alone', async () => {
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
    const drawn = [
      first.render(1, 1),
      second.render(2, 1),
      first.close(),
      second.render(1, 1),
      second.close(),
    ] as const;
    const colors = (await Promise.all(drawn)).map((raw) => raw && [...raw.data.subarray(30_000 * 4, 30_000 * 4 + 3)]);
    expect(colors).toEqual([RED, GREEN, undefined, BLUE, undefined]);
  });

  test('in a row keep no memory', async () => {
    const file = await save(Buffer.concat([await makePdf([{ color: RED, text: 'sheet' }]), Buffer.alloc(4_000_000)]));
    const many = async () => {
      for (let round = 0; round < 15; round++) await draw(openWithPdfium, file, 2);
    };
    await many();
    const before = process.memoryUsage.rss();
    await many();
    expect(process.memoryUsage.rss() - before).toBeLessThan(40 * 2 ** 20);
  });
});

describe('under a cap', () => {
  const side = 5000;
  const pixels = deflateSync(Buffer.alloc(side * side, 200)).toString('latin1');
  const grey = `/Subtype /Image /Width ${side} /Height ${side} /ColorSpace /DeviceGray /BitsPerComponent 8`;

  /** Draws the file with `roomMb` more memory than the engine has by then, then again with all that there is. */
  async function drawTwice(file: string, roomMb: number) {
    const small = path.join(folder, 'small.pdf');
    await writeFile(small, await makePdf([{ color: RED }]));
    const script = `
      import { execFileSync } from 'node:child_process';
      import { readFileSync } from 'node:fs';
      import { openWithPdfium } from ${JSON.stringify(new URL('../../../../../converter/render/engines/pdfium/document.ts', import.meta.url).href)};
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

  underCap('an image that PDFium would leave out in silence is an error', async () => {
    const image = stream(`${grey} /Filter /FlateDecode /SMask 6 0 R`, pixels);
    const mask = stream(`${grey} /Filter /FlateDecode`, pixels);
    const file = await save(onePage('200 0 0 300 0 0 cm /Image Do', '/Image 5 0 R', [image, mask]));
    expect(await drawTwice(file, 14)).toEqual({
      capped: { code: 'out_of_memory', retryable: true },
      uncapped: 211,
      other: RED[0],
    });
  });

  underCap('a trap for want of memory is one too, and ends neither this document nor others', async () => {
    const hex = deflateSync(Buffer.alloc(side * side * 2, 'c8')).toString('latin1');
    const image = stream(`${grey} /Filter [/FlateDecode /ASCIIHexDecode]`, hex);
    const file = await save(onePage('200 0 0 300 0 0 cm /Image Do', '/Image 5 0 R', [image]));
    expect(await drawTwice(file, 55)).toEqual({
      capped: { code: 'out_of_memory', retryable: true },
      uncapped: 200,
      other: RED[0],
    });
  });
});

/** A page of 200x300 points; `objects` count from 5. */
function onePage(content: string, names: string, objects: string[]): Buffer {
  const page = `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Resources << /XObject << ${names} >> >> /Contents 4 0 R >>`;
  const pages = '<< /Type /Pages /Kids [3 0 R] /Count 1 >>';
  return writePdf(['<< /Type /Catalog /Pages 2 0 R >>', pages, page, stream('', content), ...objects], '');
}

function stream(dictionary: string, data: string): string {
  return `<< ${dictionary} /Length ${data.length} >>\nstream\n${data}\nendstream`;
}
