import sharp from 'sharp';
import { deflatedZeros, pdfOfImage, pngOfZeros } from '../../bench/hostile-images.ts';
import { makeImage, makePdf, pixelAt, RED, writePdf } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService } from '../support/service.ts';
import { pdfThatNeverEnds, pdfWithPageForPdfium } from './slow-files.ts';

/** Small files that need much memory or time: each ends with its expected outcome and affects no other upload. */

const CAPACITY_MB = 1024;
/** How far above its reservation a sandbox may be measured: what the watchdog lets pass between two looks. */
const OVER_MB = 16;
const MAX_SIDE = 3499;

async function start(env: Record<string, string>): Promise<Service> {
  // The service logs the ends of their sandboxes as errors.
  return startService({
    env: { CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: String(CAPACITY_MB), LOG_LEVEL: 'fatal', ...env },
  });
}

async function send(service: Service, name: string, bytes: Uint8Array, fields?: Record<string, string>) {
  const { status, body } = await service.upload([[name, bytes]], fields);
  expect(status).toBe(200);
  return body.id as string;
}

/** Small images and PDFs of a page or two, with how many pages they have. */
async function sendNormalFiles(service: Service, count: number): Promise<{ id: string; pages: number }[]> {
  const image = await makeImage({ width: 300, height: 200 });
  const pdf = await makePdf([{ color: RED }, { color: RED }]);
  const sendOne = async (index: number) =>
    index % 3 === 2
      ? { id: await send(service, 'a.pdf', pdf, { dpi: '72' }), pages: 2 }
      : { id: await send(service, 'a.png', image), pages: 1 };
  return Promise.all(Array.from({ length: count }, (_, index) => sendOne(index)));
}

async function expectUnharmed(service: Service, normalFiles: { id: string; pages: number }[]): Promise<void> {
  for (const { id, pages } of normalFiles) {
    const document = await service.done(id, 100_000);
    expect(document).toMatchObject({ status: 'completed', progress: { pages_done: pages } });
  }
}

async function attemptsOf(service: Service, upload: string): Promise<Json[]> {
  const { items } = await service.get(`/jobs?upload_id=${upload}&limit=200`);
  const jobs: Json[] = await Promise.all(items.map(({ job_id }: Json) => service.get(`/jobs/${job_id}`)));
  return jobs.flatMap(({ attempts }) => attempts);
}

const highest = (attempts: Json[]) => Math.max(...attempts.map(({ peak_memory_mb }) => peak_memory_mb));
const outcomesOf = ({ pages }: Json) =>
  pages.map(({ page, status, engine, error }: Json) => [page, status, status === 'completed' ? engine : error.code]);

function expectSmall({ pages }: Json): void {
  expect(pages.length).toBeGreaterThan(0);
  for (const { width, height } of pages) expect(Math.max(width, height)).toBeLessThanOrEqual(MAX_SIDE);
}

/** Made, or not for want of memory: then it says what it had and what there is. */
function expectMadeOrOutOfMemory(document: Json): void {
  if (document.status === 'completed') expectSmall(document);
  else
    expect(document).toMatchObject({
      status: 'failed',
      error: { code: 'out_of_memory', message: expect.stringMatching(/had 1024 MB.*more than 1024 MB/) },
    });
}

describe('files that need much memory', () => {
  let service: Service;
  beforeAll(async () => {
    // Cores are short here, and this is not about time.
    service = await start({ PAGE_TIMEOUT_SECONDS: '120' });
  });
  afterAll(() => service.stop());

  test('are refused, shrunk or drawn within what they reserve, and normal files complete meanwhile', async () => {
    const create = { width: 20_000, height: 14_000, channels: 3, background: '#a53' } as const;
    const jpeg = await sharp({ create, limitInputPixels: false }).jpeg().toBuffer();
    const raster = await pdfOfImage({
      width: 12_000,
      height: 9_000,
      filter: 'FlateDecode',
      data: deflatedZeros(12_000 * 9_000 * 3),
    });
    const ids = {
      bomb: await send(service, 'bomb.png', pngOfZeros(225_000, 225_000, { wholly: false })),
      jpeg: await send(service, 'large.jpg', jpeg),
      box: await send(service, 'box.pdf', pdfOf([12_000, 12_000], '1 0 0 rg 0 0 12000 12000 re f')),
      raster: await send(service, 'raster.pdf', raster),
      interlaced: await send(service, 'interlaced.png', pngOfZeros(10_000, 10_000, { interlaced: true })),
    };
    const normalFiles = await sendNormalFiles(service, 18);

    const bomb = await service.done(ids.bomb);
    expect(bomb).toMatchObject({
      status: 'failed',
      error: { code: 'too_many_pixels', message: expect.stringMatching(/225000 x 225000/) },
    });
    await expectUnharmed(service, normalFiles);

    const shrunk = await service.done(ids.jpeg, 100_000);
    expect(shrunk).toMatchObject({ status: 'completed', pages: [{ width: MAX_SIDE, engine: 'sharp' }] });
    expectSmall(shrunk);
    expect(highest(await attemptsOf(service, ids.jpeg))).toBeLessThan(256);

    const box = await service.done(ids.box, 100_000);
    expect(box).toMatchObject({ status: 'completed', pages: [{ reduced: 'fits below 3500' }] });
    expectSmall(box);

    expectMadeOrOutOfMemory(await service.done(ids.raster, 100_000));
    expectMadeOrOutOfMemory(await service.done(ids.interlaced, 100_000));

    for (const id of Object.values(ids)) {
      for (const { peak_memory_mb, memory_mb } of await attemptsOf(service, id)) {
        expect(memory_mb).toBeLessThanOrEqual(CAPACITY_MB);
        expect(peak_memory_mb).toBeLessThanOrEqual(memory_mb + OVER_MB);
      }
    }
    await expectNothingLeft(service);
  }, 120_000);
});

describe('files that need much time, or another engine', () => {
  let service: Service;
  beforeAll(async () => {
    service = await start({ PAGE_TIMEOUT_SECONDS: '2' });
  });
  afterEach(() => expectNothingLeft(service));
  afterAll(() => service.stop());

  test('a page that never ends fails alone, after one time limit', async () => {
    const id = await send(service, 'endless.pdf', pdfThatNeverEnds(5, 3));
    const normalFiles = await sendNormalFiles(service, 6);
    const document = await service.done(id, 100_000);
    expect(document).toMatchObject({
      status: 'failed',
      error: { code: 'timeout', message: expect.stringMatching(/page 3 took longer than 2 s/) },
      progress: { pages_done: 4, pages_total: 5 },
    });
    expect(outcomesOf(document).map(([page, status]: Json) => [page, status])).toEqual([
      [1, 'completed'],
      [2, 'completed'],
      [3, 'failed'],
      [4, 'completed'],
      [5, 'completed'],
    ]);
    const attempts = await attemptsOf(service, id);
    // The second engine may need more memory than was reserved: the page then runs again, in the time that is left.
    expect(attempts.every(({ status, error }) => status === 'completed' || error.code === 'out_of_memory')).toBe(true);
    const took = ({ started_at, finished_at }: Json) => Date.parse(finished_at) - Date.parse(started_at);
    // Two seconds of a core in all, and fresh sandboxes: far from the timeout of the job.
    expect(Math.max(...attempts.map(took))).toBeLessThan(50_000);
    await expectUnharmed(service, normalFiles);
  }, 120_000);

  test('a page that pdf.js does not end is drawn by PDFium, in the same attempt', async () => {
    const id = await send(service, 'far.pdf', pdfWithPageForPdfium(3, 2), { dpi: '72', engine: 'pdf-to-img' });
    const document = await service.done(id);
    expect(document).toMatchObject({ status: 'completed', progress: { pages_done: 3, pages_total: 3 } });
    expect(outcomesOf(document)[1]).toEqual([2, 'completed', 'pdfium']);
    const attempts = await attemptsOf(service, id);
    expect(new Set(attempts.map(({ attempt, status }) => `${attempt} ${status}`))).toEqual(new Set(['1 completed']));
  });

  test('a page that pdf.js cannot read is drawn by PDFium', async () => {
    const page = pdfOf([100, 100], '1 0 0 rg 0 0 100 100 re f', { pageAsStream: true });
    const id = await send(service, 'stream.pdf', page, { engine: 'pdf-to-img' });
    expect(outcomesOf(await service.done(id))).toEqual([[1, 'completed', 'pdfium']]);
    const png = await service.bytes(`/uploads/${id}/pages/1/1.png`);
    expect((await pixelAt(png, 100, 100)).slice(0, 3)).toEqual([255, 0, 0]);
  });

  test('a tree of pages that loops ends at once, with the pages that can be found or as corrupt', async () => {
    const page = '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] >>';
    const tree = (kids: string) => `<< /Type /Pages /Kids [${kids}] /Count 3 >>`;
    const loops = [
      writePdf(['<< /Type /Catalog /Pages 2 0 R >>', tree('2 0 R')], ''),
      writePdf(['<< /Type /Catalog /Pages 2 0 R >>', tree('3 0 R 4 0 R'), page, tree('2 0 R')], ''),
    ];
    const [none, some] = await Promise.all(loops.map((bytes) => send(service, 'loop.pdf', bytes, { dpi: '72' })));
    expect(await service.done(none as string, 20_000)).toMatchObject({
      status: 'failed',
      error: { code: 'corrupt_file' },
    });
    const document = await service.done(some as string, 20_000);
    expect(outcomesOf(document)[0].slice(0, 2)).toEqual([1, 'completed']);
    for (const [, status, code] of outcomesOf(document).slice(1)) {
      expect(status === 'completed' || code === 'corrupt_file').toBe(true);
    }
  });
});

test('PDF_ENGINE selects the first engine', async () => {
  const service = await start({ PDF_ENGINE: 'pdf-to-img' });
  try {
    const id = await send(service, 'a.pdf', await makePdf([{ color: RED }, { color: RED }]), { dpi: '72' });
    expect(outcomesOf(await service.done(id))).toEqual([
      [1, 'completed', 'pdf-to-img'],
      [2, 'completed', 'pdf-to-img'],
    ]);
    await expectNothingLeft(service);
  } finally {
    await service.stop();
  }
});

/** A PDF of one page. As a stream, which no page may be, it is one for PDFium and none for pdf.js. */
function pdfOf([width, height]: [number, number], content: string, { pageAsStream = false } = {}): Buffer {
  const entries = `/Type /Page /Parent 2 0 R /MediaBox [0 0 ${width} ${height}] /Contents 4 0 R`;
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      pageAsStream ? `<< ${entries} /Length 2 >>\nstream\n  \nendstream` : `<< ${entries} >>`,
      `<< /Length ${content.length} >>\nstream\n${content}\nendstream`,
    ],
    '',
  );
}
