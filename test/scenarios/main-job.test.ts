import sharp from 'sharp';
import {
  BLUE,
  type Color,
  GREEN,
  makeImage,
  makePdf,
  type PageSpec,
  pixelAt,
  RED,
  writePdf,
  YELLOW,
} from '../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService, until } from '../support/service.ts';

let service: Service;
beforeAll(async () => {
  service = await startService({ env: { CAPACITY_CPU: '2' } });
});
afterEach(async () => {
  expect(await service.leftovers()).toEqual(NOTHING_LEFT);
});
afterAll(() => service.stop());

/** A distinct colour for each of up to 64 pages. */
function colorOf(page: number): Color {
  return [(page % 4) * 80, (Math.floor(page / 4) % 4) * 80, Math.floor(page / 16) * 80];
}

async function convert(files: [string, Uint8Array][], fields: Record<string, string> = {}): Promise<Json> {
  const { status, body } = await service.upload(files, fields);
  expect(status).toBe(200);
  return service.done(body.id);
}

/** The colour in the middle of a page, after a check that the PNG is as large as the page says. */
async function colorIn({ url, width, height, bytes }: Json): Promise<number[]> {
  const png = await service.bytes(url);
  expect(png.length).toBe(bytes);
  const facts = await sharp(png).metadata();
  expect([facts.format, facts.width, facts.height]).toEqual(['png', width, height]);
  expect(Math.max(width, height)).toBeLessThan(3500);
  return (await pixelAt(png, Math.floor(width / 2), Math.floor(height / 2))).slice(0, 3);
}

async function jobsOf(id: string): Promise<{ type: string; status: string; attempt: number }[]> {
  const { rows } = await service.pool.query('select type, status, attempt from jobs where upload_id = $1', [id]);
  return rows;
}

test('the pages of a PDF that was split come in order, each with its own content and size', async () => {
  const specs: PageSpec[] = Array.from({ length: 30 }, (_, index) => ({
    width: 100 + index * 3,
    height: 150 + (index % 7) * 20,
    color: colorOf(index + 1),
  }));
  const done = await convert([['a.pdf', await makePdf(specs)]], { dpi: '144' });
  expect(done).toMatchObject({ status: 'completed', progress: { pages_done: 30, pages_total: 30 } });
  expect(done.originals[0].page_count).toBe(30);
  expect(done.pages.map(({ page }: Json) => page)).toEqual(specs.map((_, index) => index + 1));
  for (const [index, page] of done.pages.entries()) {
    const { width = 0, height = 0, color } = specs[index] as PageSpec;
    expect(page).toMatchObject({ width: width * 2, height: height * 2, dpi: 144, reduced: null });
    expect([page.page, await colorIn(page)]).toEqual([page.page, color]);
  }
  const jobs = await jobsOf(done.id);
  expect(jobs.filter(({ type }) => type === 'convert_range').length).toBeGreaterThan(1);
  expect(jobs.every(({ status, attempt }) => status === 'completed' && attempt === 1)).toBe(true);
});

test('each page is as large as fits below 3500 pixels, and its size is recorded', async () => {
  const pdf = await makePdf([
    { width: 612, height: 792, color: RED },
    { width: 14_400, height: 14_400, color: GREEN },
    { width: 14_400, height: 72, color: BLUE },
    { width: 10, height: 10, color: YELLOW },
    { width: 1_259.64, height: 100, color: RED },
    { width: 1_260, height: 100, color: RED },
  ]);
  const { status, pages } = await convert([['a.pdf', pdf]]);
  expect(status).toBe('completed');
  const reduced = 'fits below 3500';
  expect(pages).toMatchObject([
    { width: 1700, height: 2200, dpi: 200, reduced: null },
    { width: 3499, height: 3499, dpi: 17.5, reduced },
    { width: 3499, height: 18, dpi: 17.5, reduced },
    { width: 28, height: 28, dpi: 200, reduced: null },
    { width: 3499, height: 278, dpi: 200, reduced: null },
    { width: 3499, dpi: 199.94, reduced },
  ]);
  const colors: number[][] = [];
  for (const page of pages) colors.push(await colorIn(page));
  expect(colors).toEqual([RED, GREEN, BLUE, YELLOW, RED, RED]);
});

test('a selection of pages is converted, and nothing else', async () => {
  const pdf = await makePdf([1, 2, 3, 4, 5, 6].map((page) => ({ color: colorOf(page) })));
  const done = await convert([['a.pdf', pdf]], { pages: '2-3,5' });
  expect(done).toMatchObject({ status: 'completed', progress: { pages_done: 3, pages_total: 3 } });
  expect(done.originals[0].page_count).toBe(6);
  expect(done.pages.map(({ page }: Json) => page)).toEqual([2, 3, 5]);
  for (const page of done.pages) expect(await colorIn(page)).toEqual(colorOf(page.page));
});

test('several files in one upload keep their order', async () => {
  const pdf = await makePdf([{ color: RED }, { color: GREEN }, { color: BLUE }]);
  const done = await convert([
    ['b.jpeg', await makeImage({ format: 'jpeg', color: YELLOW })],
    ['z.pdf', pdf],
    ['a.png', await makeImage({ color: GREEN })],
    ['a.jpg', await makeImage({ format: 'jpeg', color: BLUE })],
  ]);
  expect(done).toMatchObject({ status: 'completed', progress: { pages_done: 6, pages_total: 6 } });
  expect(done.originals.map(({ filename, media_type }: Json) => [filename, media_type])).toEqual([
    ['b.jpeg', 'image/jpeg'],
    ['z.pdf', 'application/pdf'],
    ['a.png', 'image/png'],
    ['a.jpg', 'image/jpeg'],
  ]);
  expect(done.pages.map(({ original, page }: Json) => [original, page])).toEqual([
    [1, 1],
    [2, 1],
    [2, 2],
    [2, 3],
    [3, 1],
    [4, 1],
  ]);
  const expected = [YELLOW, RED, GREEN, BLUE, GREEN, BLUE];
  for (const [index, page] of done.pages.entries()) {
    for (const [channel, value] of (await colorIn(page)).entries()) {
      expect(Math.abs(value - (expected[index]?.[channel] ?? 0))).toBeLessThan(6); // JPEG is not exact
    }
  }
});

test('a large image shrinks and a small one stays as it is', async () => {
  const done = await convert([
    ['wide.png', await makeImage({ width: 5_000, height: 100, color: RED })],
    ['tall.jpg', await makeImage({ width: 50, height: 7_000, color: GREEN, format: 'jpeg' })],
    ['edge.png', await makeImage({ width: 3_500, height: 3_499, color: BLUE })],
    ['fits.png', await makeImage({ width: 3_499, height: 20, color: BLUE })],
    ['tiny.png', await makeImage({ width: 1, height: 1, color: YELLOW })],
  ]);
  expect(done.status).toBe('completed');
  expect(done.pages).toMatchObject([
    { width: 3499, height: 70 },
    { width: 25, height: 3499 },
    { width: 3499, height: 3498 },
    { width: 3499, height: 20 },
    { width: 1, height: 1 },
  ]);
  for (const page of done.pages) {
    expect(page).toMatchObject({ dpi: null, engine: 'sharp' });
    await colorIn(page);
  }
});

test('the same file under the same name twenty times at once is twenty uploads that share nothing', async () => {
  const pdf = await makePdf([{ color: RED }, { color: GREEN }]);
  const answers = await Promise.all(Array.from({ length: 20 }, () => service.upload([['same.pdf', pdf]])));
  expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200));
  const documents = await Promise.all(answers.map(({ body }) => service.done(body.id)));
  expect(new Set(documents.map(({ id }) => id)).size).toBe(20);
  const paths = documents.flatMap(({ originals, pages }) => [...originals, ...pages].map(({ path }: Json) => path));
  expect(new Set(paths).size).toBe(60);
  for (const document of documents) {
    expect(document).toMatchObject({ status: 'completed', progress: { pages_done: 2, pages_total: 2 } });
    expect(document.originals[0].filename).toBe('same.pdf');
    expect(await colorIn(document.pages[1])).toEqual(GREEN);
  }
});

test('finished pages can be read while others are converted', async () => {
  const pdf = await makePdf(Array.from({ length: 64 }, (_, index) => ({ color: colorOf(index) })));
  const { body } = await service.upload([['a.pdf', pdf]]);
  const partial = await until(async () => {
    const { progress, done } = await service.get(`/uploads/${body.id}/status`);
    if (done) throw new Error('done before a part of it was seen');
    return progress.pages_done > 0 && progress.pages_done < progress.pages_total && service.get(`/uploads/${body.id}`);
  });
  expect(partial).toMatchObject({ status: 'processing', finished_at: null, progress: { pages_total: 64 } });
  expect(partial.pages.length).toBeGreaterThan(0);
  const numbers = partial.pages.map(({ page }: Json) => page);
  expect(numbers).toEqual(numbers.toSorted((a: number, b: number) => a - b));
  expect(await colorIn(partial.pages[0])).toEqual(colorOf(partial.pages[0].page - 1));

  let seen = 0;
  await until(async () => {
    const { progress, done } = await service.get(`/uploads/${body.id}/status`);
    expect(progress.pages_done).toBeGreaterThanOrEqual(seen);
    seen = progress.pages_done;
    return done;
  });
  expect(seen).toBe(64);
});

test('an original that fails leaves the others good', async () => {
  const pdf = await makePdf([{ color: RED }, { color: GREEN }, { color: BLUE }]);
  const done = await convert([
    ['good.pdf', pdf],
    ['bad.pdf', Buffer.from('%PDF-1.7 and nothing more')],
    ['good.png', await makeImage({ color: YELLOW })],
  ]);
  expect(done).toMatchObject({ status: 'failed', error: { code: 'corrupt_file' }, progress: { pages_done: 4 } });
  expect(done.originals.map(({ error }: Json) => error?.code ?? null)).toEqual([null, 'corrupt_file', null]);
  expect(done.pages.map(({ original, page, status }: Json) => [original, page, status])).toEqual([
    [1, 1, 'completed'],
    [1, 2, 'completed'],
    [1, 3, 'completed'],
    [3, 1, 'completed'],
  ]);
  expect(await colorIn(done.pages[1])).toEqual(GREEN);
  expect(await colorIn(done.pages[3])).toEqual(YELLOW);
});

test('a page that cannot be drawn leaves the others good', async () => {
  const done = await convert([['a.pdf', pdfWithOneBrokenPage()]]);
  expect(done).toMatchObject({
    status: 'failed',
    error: { code: 'corrupt_file', message: expect.stringMatching(/^original 1, page 2: /) },
    progress: { pages_done: 5, pages_total: 6 },
  });
  expect(done.originals[0].error).toBeNull();
  for (const page of done.pages) {
    if (page.page === 2) {
      expect(page).toMatchObject({ status: 'failed', path: null, url: null, error: { code: 'corrupt_file' } });
      expect((await fetch(`${service.url}/uploads/${done.id}/pages/1/2.png`)).status).toBe(404);
    } else expect(await colorIn(page)).toEqual([255, 0, 0]);
  }
});

/** Six pages, all red but the second, which cannot be found: its branch of the tree of pages leads nowhere. */
function pdfWithOneBrokenPage(): Buffer {
  const numbers = [1, 2, 3, 4, 5, 6];
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      `<< /Type /Pages /Kids [${numbers.map((page) => `${page + 2} 0 R`).join(' ')}] /Count 6 >>`,
      ...numbers.map((page) =>
        page === 2
          ? '<< /Type /Pages /Parent 2 0 R /Count 1 /Kids 7 >>'
          : '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 9 0 R >>',
      ),
      '<< /Length 26 >>\nstream\n1 0 0 rg 0 0 100 100 re f \nendstream',
    ],
    '',
  );
}
