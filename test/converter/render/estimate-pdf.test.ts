import type { PdfEngine, Step } from '../../../conversion/conversion-task.ts';
import { estimatePages } from '../../../converter/render/estimate-pdf.ts';
import type { LogLevel } from '../../../db/schema.ts';
import { writePdf } from '../../support/files.ts';
import { withFile } from '../../support/pdf.ts';

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

describe('the pages of a PDF', () => {
  async function estimate(
    data: Buffer,
    { pages = [1], firstEngine = 'pdf-to-img' as PdfEngine, failedSteps = [] as Step[] } = {},
  ) {
    const steps: Step[] = [];
    const logged: string[] = [];
    const inspection = {
      password: null,
      failedSteps: failedSteps.map((step) => ({ ...step, error: { code: 'timeout' as const, message: '' } })),
      limits: { maxPages: 1, maxPixels: 1, stepSeconds: 1, firstEngine },
      step: (step: Step) => steps.push(step),
      log: (_level: LogLevel, message: string) => logged.push(message),
    };
    const sized = pages.map((page) => ({ page, width: 72, height: 72 }));
    const planned = await withFile(data, (input) => estimatePages({ input, ...inspection }, sized, 200));
    return { memoryMb: planned.map(({ memoryMb }) => Math.round(memoryMb)), steps, logged };
  }

  test('need the memory of the images that they draw', async () => {
    const scans = [image(5_000, 4_000), image(20_000, 10_000, '/Filter /JPXDecode')];
    const { memoryMb } = await estimate(pdfDrawing(scans, [[], [1], [2], [1, 1]]), { pages: [1, 2, 3, 4] });
    const [bare = 0, first = 0, second = 0, twice] = memoryMb;
    expect(bare).toBeLessThan(300);
    expect(first - bare).toBe(Math.round((20e6 * 25) / 2 ** 20));
    // pdf.js decodes no more than 89 megapixels of it.
    expect(second - bare).toBe(512);
    expect(twice).toBe(first);
  });

  test('are all charged small images, without a search for the page that draws them', async () => {
    const { memoryMb, steps } = await estimate(pdfDrawing([image(100, 100)], [[], [1]]), { pages: [1, 2] });
    expect(memoryMb[0]).toBe(memoryMb[1]);
    expect(steps).toEqual([]);
  });

  test('are all charged the largest image when the search has ended a sandbox before', async () => {
    const scan = pdfDrawing([image(5_000, 4_000)], [[], [1]]);
    const { steps, ...first } = await estimate(scan, { pages: [1, 2] });
    expect(first.memoryMb[0]).toBeLessThan(first.memoryMb[1] ?? 0);
    const again = await estimate(scan, { pages: [1, 2], failedSteps: steps.slice(0, 1) });
    expect(again.memoryMb).toEqual([first.memoryMb[1], first.memoryMb[1]]);
  });

  test('need less memory with the engine that keeps less', async () => {
    const scan = pdfDrawing([image(5_000, 4_000)], [[1]]);
    const [pdfToImg, pdfium] = [await estimate(scan), await estimate(scan, { firstEngine: 'pdfium' })];
    expect(pdfium.memoryMb[0]).toBeLessThan(pdfToImg.memoryMb[0] ?? 0);
  });

  test('are charged the largest image, with a line in the log of the job, when PDFium cannot read them', async () => {
    const scan = pdfDrawing([image(5_000, 4_000)], [[], [1]]);
    const { memoryMb, logged } = await estimate(scan, { pages: [1, 2, 3] });
    expect(memoryMb[0]).toBeLessThan(memoryMb[1] ?? 0);
    expect(memoryMb[2]).toBe(memoryMb[1]);
    expect(logged).toEqual(['memory is estimated without the images of page 3: page 3 cannot be read']);
  });

  test('are charged the largest image, with a line in the log of the job, when PDFium cannot open the file', async () => {
    const scan = Buffer.from(
      pdfDrawing([image(5_000, 4_000)], [[], [1]])
        .toString('latin1')
        .replace('%PDF-1.7', ''),
      'latin1',
    );
    const { memoryMb, logged } = await estimate(scan, { pages: [1, 2] });
    expect(memoryMb[0]).toBe(memoryMb[1]);
    expect(logged).toEqual(['memory is estimated without the images of the file: the PDF cannot be read']);
  });
});
