import { deflateSync } from 'node:zlib';
import { openPdf } from '../../../../converter/render/engines/fallback.ts';
import type { PublicError } from '../../../../errors.ts';
import type { PdfEngine, Step } from '../../../../tasks/task.ts';
import { makePdf, RED, writePdf } from '../../../support/files.ts';
import { inkOf, onePagePdf, streamObject, withFile } from '../../../support/pdf.ts';

type Avoided = Step & { error: PublicError };

interface Result {
  engine: PdfEngine;
  note: string | null;
  ink: number;
  /** The engines that were loaded. */
  opened: PdfEngine[];
}

/** Draws a page as a conversion does. */
function convert(pdf: Buffer | Uint8Array, page = 1, firstEngine: PdfEngine = 'pdfium', avoid: Avoided[] = []) {
  return withFile(pdf, async (input): Promise<Result> => {
    const opened: PdfEngine[] = [];
    const limits = { maxPages: 10, maxPixels: 1e9, stepSeconds: 30, firstEngine };
    const step = (at: Step) => {
      if (at.page === null && at.engine !== 'sharp') opened.push(at.engine);
    };
    const document = await openPdf({ input, password: null, avoid, limits, step });
    try {
      const { image, engine, note } = await document.draw(page, 72);
      return { engine, note, ink: inkOf(image), opened };
    } finally {
      await document.close();
    }
  });
}

const timeout = (engine: PdfEngine, page: number | null): Avoided => ({
  ...{ page, engine, last: false },
  error: { code: 'timeout', message: `page ${page} took longer than 30 s` },
});

const SQUARES = Array.from(
  { length: 400 },
  (_, at) => `${at % 2} 0 ${at % 3 ? 1 : 0} rg ${(at % 20) * 10} ${Math.floor(at / 20) * 15} 7 9 re f`,
);
/** A page of many squares whose content is cut after this share of its compressed bytes. */
function cutContent(share: number): Buffer {
  const whole = deflateSync(Buffer.from(SQUARES.join('\n')), { level: 9 });
  const cut = streamObject('/Filter /FlateDecode', whole.subarray(0, Math.ceil(whole.length * share)));
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>',
      cut,
    ],
    '',
  );
}

function imagePage(entries: string, data: Buffer | string): Buffer {
  return onePagePdf({
    content: '0 1 0 rg 0 280 200 20 re f q 200 0 0 250 0 0 cm /Image Do Q',
    resources: '/XObject << /Image 5 0 R >>',
    objects: [streamObject(`/Type /XObject /Subtype /Image /Width 20 /Height 25 /BitsPerComponent 8 ${entries}`, data)],
  });
}
const PIXELS = Buffer.from(Array.from({ length: 20 * 25 * 3 }, (_, at) => (at * 37) % 200));
const RGB = '/ColorSpace /DeviceRGB /Filter /FlateDecode';

test('a complete page is drawn by the first engine alone', async () => {
  const pdf = await makePdf([{ color: RED }]);
  expect(await convert(pdf)).toMatchObject({ engine: 'pdfium', note: null, opened: ['pdfium'] });
  expect(await convert(pdf, 1, 'pdf-to-img')).toMatchObject({
    ...{ engine: 'pdf-to-img', note: null, opened: ['pdf-to-img'] },
  });
});

describe('an empty page', () => {
  test.each([
    ['without content', '', ''],
    ['whose content paints nothing', 'q 1 0 0 1 5 5 cm Q', ''],
    ['of text without glyphs', 'BT ET', ''],
  ])('%s needs no second engine', async (_, content) => {
    expect(await convert(onePagePdf({ content }))).toEqual({
      ...{ engine: 'pdfium', note: null, ink: 0, opened: ['pdfium'] },
    });
  });

  test('that is painted white is asked of both, and stays an empty page', async () => {
    expect(await convert(onePagePdf({ content: '1 g 0 0 200 300 re f' }))).toMatchObject({
      ...{ engine: 'pdfium', note: null, ink: 0, opened: ['pdfium', 'pdf-to-img'] },
    });
  });
});

describe('damaged content', () => {
  test.each([0.9, 0.5])('of which %f is left shows what can be inflated, and says so', async (share) => {
    const { ink, note } = await convert(cutContent(share));
    const whole = await convert(cutContent(1));
    expect(whole.note).toBeNull();
    expect(ink).toBeGreaterThan(whole.ink * share * 0.5);
    expect(ink).toBeLessThan(whole.ink);
    expect(note).toMatch(/a stream of the file is damaged/);
  });

  test('of which nothing can be inflated fails', async () => {
    await expect(convert(cutContent(0.03))).rejects.toMatchObject({ code: 'corrupt_file' });
  });
});

describe('an image', () => {
  test('that is sound needs no second engine', async () => {
    expect(await convert(imagePage(RGB, deflateSync(PIXELS)))).toMatchObject({ note: null, opened: ['pdfium'] });
  });

  test('that is cut is asked of both engines, and named', async () => {
    const cut = deflateSync(PIXELS, { level: 0 }).subarray(0, 700);
    const { note, opened } = await convert(imagePage(RGB, cut));
    expect(opened).toEqual(['pdfium', 'pdf-to-img']);
    expect(note).toMatch(/image/);
  });

  test.each([
    ['no JPEG', '/ColorSpace /DeviceRGB /Filter /DCTDecode', 'no JPEG at all'],
    ['no JPEG 2000', '/Filter /JPXDecode', 'no JPEG 2000 at all'],
    ['without a size', '/ColorSpace /DeviceRGB /Filter /FlateDecode /Width 0', ''],
  ])('that is %s is never left out in silence', async (_, entries, data) => {
    const { note, ink } = await convert(imagePage(entries, data));
    expect(note).toMatch(/image/);
    expect(ink).toBeGreaterThan(0);
  });
});

describe('what an earlier run did not survive', () => {
  test('is drawn by the other engine, and the note says why', async () => {
    const pdf = await makePdf([{ color: RED }]);
    for (const avoided of [timeout('pdfium', 1), timeout('pdfium', null)]) {
      const { engine, note, ink } = await convert(pdf, 1, 'pdfium', [avoided]);
      expect({ engine, note }).toEqual({ engine: 'pdf-to-img', note: `pdfium: ${avoided.error.message}` });
      expect(ink).toBeGreaterThan(0);
    }
  });

  test('by both engines fails as it did before', async () => {
    const pdf = await makePdf([{ color: RED }]);
    const both = [timeout('pdfium', 1), timeout('pdf-to-img', 1)];
    await expect(convert(pdf, 1, 'pdfium', both)).rejects.toMatchObject({ code: 'timeout' });
  });

  test('by the second engine leaves the picture of the first', async () => {
    const result = await convert(cutContent(0.5), 1, 'pdfium', [timeout('pdf-to-img', 1)]);
    expect(result).toMatchObject({ engine: 'pdfium', note: 'pdfium: a stream of the file is damaged' });
  });
});

describe('a broken tree of pages', () => {
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

  test('is numbered by the engine that finds its last page, and the page that is missing fails alone', async () => {
    expect(await convert(broken, 1)).toMatchObject({ engine: 'pdf-to-img', ink: 100 });
    await expect(convert(broken, 2)).rejects.toMatchObject({ code: 'corrupt_file' });
    expect(await convert(broken, 3)).toMatchObject({
      ...{ engine: 'pdf-to-img', ink: 900, note: 'pdfium: page 3 cannot be read' },
    });
  });

  test('with a negative count or a page listed twice has the pages that are there', async () => {
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
    expect(await convert(tree('3 0 R', -1), 1)).toMatchObject({ ink: 100 });
    expect(await convert(tree('3 0 R 3 0 R', 2), 2)).toMatchObject({ ink: 100 });
  });
});

test('a page that no engine finds fails, and names itself', async () => {
  await expect(convert(await makePdf([{ color: RED }]), 2)).rejects.toMatchObject({
    ...{ code: 'corrupt_file', message: 'page 2 cannot be read' },
  });
});
