import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { PdfEngine, Step } from '../../../conversion/conversion-task.ts';
import { estimateImage } from '../../../converter/render/estimate-image.ts';
import { estimatePages } from '../../../converter/render/estimate-pdf.ts';
import { findImages } from '../../../converter/render/find-embedded-images.ts';
import type { ImageHeader } from '../../../converter/render/image.ts';
import { planRanges } from '../../../converter/render/plan.ts';
import { memoryClass } from '../../../jobs/shape.ts';
import { writePdf } from '../../support/files.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-estimate-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function save(data: Buffer): Promise<string> {
  const file = path.join(folder, 'a.pdf');
  await writeFile(file, data);
  return file;
}

const stream = (dictionary: string, data = 'x') =>
  `<< ${dictionary} /Length ${data.length} >>\nstream\n${data}\nendstream`;
const image = (width: number, height: number, more = '/ColorSpace /DeviceRGB /BitsPerComponent 8') =>
  stream(`/Type /XObject /Subtype /Image /Width ${width} /Height ${height} ${more}`);

/** A page for each list of images (by number, from 1) that it draws. */
function pdfDrawing(images: string[], pages: number[][]): Buffer {
  const firstImage = 3 + 2 * pages.length;
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      `<< /Type /Pages /Kids [${pages.map((_, index) => `${3 + 2 * index} 0 R`).join(' ')}] /Count ${pages.length} >>`,
      ...pages.flatMap((numbers, index) => [
        `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 72] /Contents ${4 + 2 * index} 0 R /Resources << /XObject << ${numbers
          .map((number) => `/I${number} ${firstImage + number - 1} 0 R`)
          .join(' ')} >> >> >>`,
        stream('', numbers.map((number) => `q 9 0 0 9 0 0 cm /I${number} Do Q`).join(' ')),
      ]),
      ...images,
    ],
    '',
  );
}

describe('the images of a PDF', () => {
  test('are found by their dictionaries, with what their pixels are', async () => {
    const file = await save(
      writePdf(
        [
          image(300, 200),
          image(10, 20, '/ColorSpace /DeviceGray /BitsPerComponent 1'),
          image(11, 20, '/ImageMask true'),
          image(12, 20, '/Filter /JPXDecode'),
          image(13, 20, '/ColorSpace /DeviceCMYK /BitsPerComponent 8'),
          '<</Height 5/Width 4/Subtype/Image/Filter[/CCITTFaxDecode]>>\nstream\nx\nendstream',
          stream('/Type /XObject /Subtype /Form /Width 9 /Height 9'),
          image(7, 7, '/Width 12 0 R').replace('/Width 7 ', ''),
        ],
        '',
      ),
    );
    expect(await findImages(file)).toEqual([
      { width: 300, height: 200, kind: 'other' },
      { width: 10, height: 20, kind: 'bilevel' },
      { width: 11, height: 20, kind: 'bilevel' },
      { width: 12, height: 20, kind: 'jpx' },
      { width: 13, height: 20, kind: 'wide' },
      { width: 4, height: 5, kind: 'bilevel' },
    ]);
  });

  test('are each found once, wherever in a large file they stand', async () => {
    const filler = Buffer.alloc(1_048_573, ' ');
    const parts = Array.from({ length: 9 }, (_, index) => [
      filler,
      Buffer.from(`1 0 obj\n${image(index + 1, 1)}\nendobj\n`),
    ]);
    const found = await findImages(await save(Buffer.concat(parts.flat())));
    expect(found.map(({ width }) => width)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });
});

describe('the pages of a PDF', () => {
  async function estimate(
    data: Buffer,
    { pages = [1], firstEngine = 'pdf-to-img' as PdfEngine, avoid = [] as Step[] } = {},
  ) {
    const steps: Step[] = [];
    const inspection = {
      input: await save(data),
      password: null,
      avoid: avoid.map((step) => ({ ...step, error: { code: 'timeout' as const, message: '' } })),
      limits: { maxPages: 1, maxPixels: 1, stepSeconds: 1, firstEngine },
      step: (step: Step) => steps.push(step),
    };
    const planned = await estimatePages(
      inspection,
      pages.map((page) => ({ page, width: 72, height: 72 })),
      200,
    );
    return { memoryMb: planned.map(({ memoryMb }) => Math.round(memoryMb)), steps };
  }

  test('take what their images take, each page its own', async () => {
    const scans = [image(5_000, 4_000), image(20_000, 10_000, '/Filter /JPXDecode')];
    const { memoryMb } = await estimate(pdfDrawing(scans, [[], [1], [2], [1, 1]]), { pages: [1, 2, 3, 4] });
    const [bare = 0, first = 0, second = 0, twice] = memoryMb;
    expect(bare).toBeLessThan(300);
    expect(first - bare).toBe(Math.round((20e6 * 25) / 2 ** 20));
    // pdf.js decodes no more than 89 megapixels of it.
    expect(second - bare).toBe(512);
    expect(twice).toBe(first);
  });

  test('are all charged small images, without a look at which page draws them', async () => {
    const { memoryMb, steps } = await estimate(pdfDrawing([image(100, 100)], [[], [1]]), { pages: [1, 2] });
    expect(memoryMb[0]).toBe(memoryMb[1]);
    expect(steps).toEqual([]);
  });

  test('are all charged the largest image where the look did not come back', async () => {
    const scan = pdfDrawing([image(5_000, 4_000)], [[], [1]]);
    const { steps, ...first } = await estimate(scan, { pages: [1, 2] });
    expect(first.memoryMb[0]).toBeLessThan(first.memoryMb[1] as number);
    const again = await estimate(scan, { pages: [1, 2], avoid: steps.slice(0, 1) });
    expect(again.memoryMb).toEqual([first.memoryMb[1], first.memoryMb[1]]);
  });

  test('take less of the renderer that holds less', async () => {
    const scan = pdfDrawing([image(5_000, 4_000)], [[1]]);
    const [pdfToImg, pdfium] = [await estimate(scan), await estimate(scan, { firstEngine: 'pdfium' })];
    expect(pdfium.memoryMb[0]).toBeLessThan(pdfToImg.memoryMb[0] as number);
  });

  test('are cut into ranges of one class of memory, so that a large page costs only itself', () => {
    const planned = Array.from({ length: 40 }, (_, index) => ({ page: index + 1, memoryMb: index === 5 ? 2000 : 300 }));
    const ranges = planRanges(planned, { cpuUnits: 1, memoryMb: 384 });
    expect(ranges.flatMap(({ pages }) => pages)).toEqual(planned.map(({ page }) => page));
    expect(ranges.filter(({ memoryMb }) => memoryMb !== 384)).toEqual([{ memoryMb: 2048, pages: [6] }]);
  });
});

describe('an image', () => {
  const header: ImageHeader = {
    format: 'jpeg',
    width: 20_000,
    height: 14_000,
    channels: 3,
    deep: false,
    progressive: false,
    orientation: 1,
    hasAlpha: false,
    cmyk: false,
    isGrey: false,
    subsampled: true,
    bytes: 5_000_000,
  };
  const classOf = (more: Partial<ImageHeader>) => memoryClass(estimateImage({ ...header, ...more }));

  test.each([
    ['a small photograph', { width: 1600, height: 1200 }, 256],
    ['a huge JPEG, which is shrunk while it is decoded', {}, 256],
    ['one that is turned', { orientation: 6 }, 384],
    ['a progressive one, whose coefficients are all kept', { progressive: true }, 1536],
    ['a huge PNG, which comes line by line', { format: 'png' }, 384],
    ['an interlaced one, which comes whole', { format: 'png', progressive: true }, 1536],
    ['an interlaced one of 16 bits with alpha', { format: 'png', progressive: true, deep: true, channels: 4 }, 3072],
    ['one beyond all classes', { format: 'png', progressive: true, width: 200_000, height: 200_000 }, 16_384],
  ] as [string, Partial<ImageHeader>, number][])('%s reserves what its header says', (_, more, expected) => {
    expect(classOf(more)).toBe(expected);
  });
});
