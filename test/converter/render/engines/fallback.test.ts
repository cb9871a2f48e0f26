import { channel } from 'node:diagnostics_channel';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import type { PdfEngine } from '../../../../conversion/conversion-task.ts';
import { type FallbackDocument, openPdf } from '../../../../converter/render/engines/fallback.ts';
import { emptyPdf, encryptedPdf, GREEN, makePdf, RED, writePdf } from '../../../support/files.ts';
import { colorAt, inkOf, onePagePdf, pixelsOf, streamObject, withFile } from '../../../support/pdf.ts';

type Opening = Parameters<typeof openPdf>[0];
type Step = Parameters<Opening['step']>[0];

// The engine reads the warnings that Node publishes of its console. The test runner replaces that console.
Object.assign(globalThis.console, { warn: (...message: unknown[]) => channel('console.warn').publish(message) });

const SQUARE = '0 0 50 50 re f';

interface Options {
  firstEngine?: PdfEngine;
  failedSteps?: Opening['failedSteps'];
  password?: string | null;
}

/** Opens a PDF for `use`, and returns the steps that were reported. */
function open(pdf: Buffer, options: Options, use: (document: FallbackDocument) => Promise<void>): Promise<Step[]> {
  const { firstEngine = 'pdfium', failedSteps = [], password = null } = options;
  return withFile(pdf, async (input) => {
    const steps: Step[] = [];
    const limits = { maxPages: 1000, maxPixels: 1e8, stepSeconds: 60, firstEngine };
    const document = await openPdf({ input, password, failedSteps, limits, step: (step) => steps.push(step) });
    try {
      await use(document);
    } finally {
      await document.close();
    }
    return steps;
  });
}

/** Draws a page, and returns the result and the engines that tried. */
async function draw(pdf: Buffer, options: Options & { page?: number } = {}) {
  const drawn: { engine: PdfEngine; note: string | null; ink: number; color: number[]; asked: PdfEngine[] }[] = [];
  const steps = await open(pdf, options, async (document) => {
    const { image, engine, note } = await document.draw(options.page ?? 1, 72);
    drawn.push({ engine, note, ink: inkOf(image), color: colorAt(image, 10, image.height - 10), asked: [] });
  });
  const [page] = drawn;
  if (page === undefined) throw new Error('no page was drawn');
  return { ...page, asked: [...new Set(steps.map(({ engine }) => engine))] };
}

/** A page with a black square and a damaged image in Flate. */
function pageWithImage(filter: string, data: Buffer): Buffer {
  const size = '/Width 100 /Height 100 /BitsPerComponent 8 /ColorSpace /DeviceRGB';
  return onePagePdf({
    content: `${SQUARE} q 100 0 0 100 50 50 cm /Image Do Q`,
    resources: '/XObject << /Image 5 0 R >>',
    objects: [streamObject(`/Subtype /Image ${size} ${filter}`, data)],
  });
}

/** A page whose only content lies in forms within forms, deeper than PDFium looks. */
function deepPage(color = '0 g'): Buffer {
  const depth = 50;
  const forms = Array.from({ length: depth }, (_, level) =>
    streamObject(
      `/Subtype /Form /BBox [0 0 200 300] /Resources << /XObject << /Inner ${6 + level} 0 R >> >>`,
      level === depth - 1 ? `${color} ${SQUARE}` : '/Inner Do',
    ),
  );
  return onePagePdf({ content: '/Outer Do', resources: '/XObject << /Outer 5 0 R >>', objects: forms });
}

/** PDFium refuses a file without a header, pdf.js does not. */
function pdfWithoutHeader(): Buffer {
  return Buffer.from(onePagePdf({ content: SQUARE }).toString('latin1').replace('%PDF-1.7', ''), 'latin1');
}

const NOISE = Buffer.from(Array.from({ length: 30_000 }, (_, index) => ((index * 7919) >> 3) & 255));
/** Each bar is a row of pixels. */
const BARS = Array.from({ length: 300 }, (_, row) => `0 ${row} ${150 + ((row * 7919) % 50)}.${row} 1 re f`).join('\n');

function pageOf(content: Buffer): Buffer {
  const page = '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>';
  const pages = '<< /Type /Pages /Kids [3 0 R] /Count 1 >>';
  const stream = streamObject('/Filter /FlateDecode', content);
  return writePdf(['<< /Type /Catalog /Pages 2 0 R >>', pages, page, stream], '');
}

describe('the first engine alone', () => {
  const alone = { engine: 'pdfium', note: null, asked: ['pdfium'] };

  test.each([
    ['a page that is complete', onePagePdf({ content: SQUARE }), 2500],
    ['an image that is complete', pageWithImage('/Filter /FlateDecode', deflateSync(NOISE)), 12_500],
    ['an empty page', onePagePdf({}), 0],
    ['a page without content', pageOf(deflateSync('q Q')), 0],
    [
      'an empty page with a link',
      onePagePdf({ page: '/Annots [<< /Subtype /Link /Rect [0 0 9 9] /Border [0 0 0] >>]' }),
      0,
    ],
  ])('draws %s', async (_, pdf, ink) => {
    expect(await draw(pdf)).toMatchObject({ ...alone, ink });
  });

  test('draws an encrypted file, and opens it once for all pages', async () => {
    expect(await draw(encryptedPdf('secret', GREEN), { password: 'secret' })).toMatchObject({ ...alone, color: GREEN });
    const steps = await open(await makePdf([{ color: RED }, { color: GREEN }]), {}, async (document) => {
      expect(document.pageCount).toBe(2);
      for (const page of [1, 2]) {
        await document.pageBox(page);
        await document.draw(page, 72);
      }
    });
    expect(steps.map(({ page }) => page)).toEqual([null, 1, 1, 2, 2]);
    expect(steps.every(({ engine, last }) => engine === 'pdfium' && !last)).toBe(true);
  });

  test('may be pdf-to-img', async () => {
    expect(await draw(onePagePdf({ content: SQUARE }), { firstEngine: 'pdf-to-img' })).toMatchObject({
      engine: 'pdf-to-img',
      note: null,
      ink: 2500,
      asked: ['pdf-to-img'],
    });
  });
});

describe('the second engine draws', () => {
  const second = { engine: 'pdf-to-img', asked: ['pdfium', 'pdf-to-img'] };

  test('a page that the first leaves blank', async () => {
    expect(await draw(deepPage())).toMatchObject({ ...second, note: 'pdfium: nothing was drawn', ink: 2500 });
  });

  test('a file that the first cannot open', async () => {
    expect(await draw(pdfWithoutHeader())).toMatchObject({
      ...second,
      note: 'pdfium: the PDF cannot be read',
      ink: 2500,
    });
  });

  test('a page that the first cannot read', async () => {
    const outside = onePagePdf({ content: SQUARE, page: '/CropBox [900 900 1000 1000]' });
    expect(await draw(outside)).toMatchObject({ ...second, note: 'pdfium: page 1 cannot be read', ink: 2500 });
  });

  test('a JPEG that it shows more of', async () => {
    const jpeg = await sharp(NOISE, { raw: { width: 100, height: 100, channels: 3 } })
      .jpeg()
      .toBuffer();
    const page = await draw(pageWithImage('/Filter /DCTDecode', jpeg.subarray(0, -2)));
    expect(page).toMatchObject({ ...second, note: 'pdfium: an image is damaged', ink: 12_500 });
  });

  test('a page that ended an earlier sandbox, with a note', async () => {
    const error = { code: 'timeout', message: 'a page took longer than 60 seconds' } as const;
    const failedSteps = [{ page: 1, engine: 'pdfium' as const, last: false, error }];
    const pdf = await makePdf([{ color: RED }, { color: GREEN }]);
    expect(await draw(pdf, { failedSteps })).toMatchObject({
      ...second,
      note: 'pdfium: a page took longer than 60 seconds',
      color: RED,
    });
    expect(await draw(pdf, { failedSteps, page: 2 })).toMatchObject({ engine: 'pdfium', note: null, color: GREEN });
  });

  test('a whole file that an earlier attempt could not open', async () => {
    const error = { code: 'out_of_memory', message: 'the PDF needs too much memory' } as const;
    const failedSteps = [{ page: null, engine: 'pdfium' as const, last: false, error }];
    expect(await draw(onePagePdf({ content: SQUARE }), { failedSteps })).toMatchObject({
      engine: 'pdf-to-img',
      note: 'pdfium: the PDF needs too much memory',
      asked: ['pdf-to-img'],
    });
  });

  test('nothing when it ended an earlier sandbox', async () => {
    const error = { code: 'timeout', message: 'a page took longer than 60 seconds' } as const;
    const failedSteps = [{ page: 1, engine: 'pdf-to-img' as const, last: true, error }];
    expect(await draw(onePagePdf({ content: SQUARE }), { failedSteps })).toMatchObject({
      engine: 'pdfium',
      note: null,
    });
    await expect(draw(deepPage(), { failedSteps })).rejects.toMatchObject({ code: 'timeout' });
  });

  test('pages of the second, when pdf-to-img is the first', async () => {
    const unclosed = onePagePdf({ content: SQUARE }).toString('latin1').replace('endstream', '');
    expect(await draw(Buffer.from(unclosed, 'latin1'), { firstEngine: 'pdf-to-img' })).toMatchObject({
      engine: 'pdfium',
      note: 'pdf-to-img: page 1 cannot be drawn',
      ink: 2500,
    });
  });
});

describe('the first engine keeps', () => {
  const asked = ['pdfium', 'pdf-to-img'];

  test.each([
    ['a white page', onePagePdf({ content: `1 g ${SQUARE}` })],
    ['a page of white deep within', deepPage('1 g')],
  ])('%s that both leave blank', async (_, pdf) => {
    expect(await draw(pdf)).toMatchObject({ engine: 'pdfium', note: null, ink: 0, asked });
  });

  test.each([0.9, 0.5])('content that is cut at %d, with a note', async (share) => {
    const whole = deflateSync(BARS);
    const page = await draw(pageOf(whole.subarray(0, Math.floor(whole.length * share))));
    expect(page).toMatchObject({ engine: 'pdfium', note: 'pdfium: the content of the page is damaged', asked });
    expect(page.ink).toBeGreaterThan(300 * (share - 0.15) * 150);
  });

  test.each([
    ['damaged', '/Filter /FlateDecode', deflateSync(NOISE).subarray(0, 300), 'an image is damaged'],
    ['missing', '/Filter /JPXDecode', Buffer.from('no JPX'), 'an image cannot be decoded'],
  ])('a page whose image is %s for both, with a note', async (_, filter, data, complaint) => {
    const page = await draw(pageWithImage(filter, data));
    expect(page).toMatchObject({ engine: 'pdfium', note: `pdfium: ${complaint}`, asked });
    expect(page.ink).toBeGreaterThanOrEqual(2500);
  });
});

describe('an error', () => {
  test('contains the number of the page that both engines cannot draw', async () => {
    const code = 'corrupt_file';
    await expect(draw(pageOf(deflateSync(BARS).subarray(0, 30)))).rejects.toMatchObject({
      code,
      message: 'page 1 cannot be drawn: nothing was drawn; the content of the page is damaged',
    });
    await expect(draw(onePagePdf({ content: '/Missing Do' }))).rejects.toMatchObject({
      code,
      message: 'page 1 cannot be drawn: nothing was drawn',
    });
    await expect(draw(onePagePdf({}), { page: 2 })).rejects.toMatchObject({ code, message: 'page 2 cannot be read' });
  });

  test.each([
    ['text', Buffer.from('hello'), 'corrupt_file'],
    ['a PDF without pages', emptyPdf(), 'corrupt_file'],
    ['a PDF with a password', encryptedPdf('secret'), 'encrypted_pdf'],
    [
      'a PDF for certificates',
      onePagePdf({
        objects: ['<< /Filter /Adobe.PubSec /SubFilter /adbe.pkcs7.s5 /V 4 /Recipients [] >>'],
        trailer: '/Encrypt 5 0 R /ID [<00> <00>]',
      }),
      'unsupported_feature',
    ],
  ] as const)('about %s is the error of the first engine', async (_, pdf, code) => {
    await expect(draw(pdf)).rejects.toMatchObject({ code, retryable: false });
  });

  test('about a wrong password comes without a second try', async () => {
    const pdf = encryptedPdf('secret');
    await expect(draw(pdf, { password: 'guess' })).rejects.toMatchObject({ code: 'wrong_password' });
  });
});

test('pages have the size and dpi that fit', async () => {
  await open(onePagePdf({ content: SQUARE, width: 7200, height: 100 }), {}, async (document) => {
    expect(await document.pageBox(1)).toEqual({ width: 7200, height: 100 });
    const { image, fit } = await document.draw(1, 200);
    expect([image.width, fit.dpi, fit.reduced]).toEqual([3499, 34.99, 'fits below 3500']);
  });
});

test('a page can be drawn again after the second engine drew another', async () => {
  const pages = await makePdf([{ color: RED }, { color: GREEN }]);
  const error = { code: 'timeout', message: 'too slow' } as const;
  const failedSteps = [{ page: 2, engine: 'pdfium' as const, last: false, error }];
  await open(pages, { failedSteps }, async (document) => {
    const first = pixelsOf((await document.draw(1, 72)).image);
    expect((await document.draw(2, 72)).engine).toBe('pdf-to-img');
    expect(pixelsOf((await document.draw(1, 72)).image)).toEqual(first);
  });
});

describe('a broken page tree', () => {
  /** Red pages, of which the second has a branch that leads nowhere. */
  const broken = writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R 4 0 R 5 0 R] /Count 3 >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 10 10] /Contents 6 0 R >>',
      '<< /Type /Pages /Parent 2 0 R /Count 1 /Kids 7 >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 30 30] /Contents 6 0 R >>',
      streamObject('', '1 0 0 rg 0 0 30 30 re f'),
    ],
    '',
  );

  test('is numbered by the engine that finds its last page, and only the missing page fails', async () => {
    expect(await draw(broken, { page: 1 })).toMatchObject({ engine: 'pdf-to-img', ink: 100 });
    await expect(draw(broken, { page: 2 })).rejects.toMatchObject({ code: 'corrupt_file' });
    expect(await draw(broken, { page: 3 })).toMatchObject({
      ...{ engine: 'pdf-to-img', ink: 900, note: 'pdfium: page 3 cannot be read' },
    });
  });

  test('with a negative count or a page listed twice has the existing pages', async () => {
    const tree = (kids: string, count: number) =>
      writePdf(
        [
          '<< /Type /Catalog /Pages 2 0 R >>',
          `<< /Type /Pages /Kids [${kids}] /Count ${count} >>`,
          '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 10 10] /Contents 4 0 R >>',
          streamObject('', '1 0 0 rg 0 0 30 30 re f'),
        ],
        '',
      );
    expect(await draw(tree('3 0 R', -1))).toMatchObject({ ink: 100 });
    expect(await draw(tree('3 0 R 3 0 R', 2), { page: 2 })).toMatchObject({ ink: 100 });
  });
});
