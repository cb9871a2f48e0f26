import { createHash, randomUUID } from 'node:crypto';
import request from 'supertest';
import { BLUE, GREEN, makeImage, makePdf, RED } from '../../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService } from '../../support/service.ts';

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let service: Service;
let png: Buffer;
let pdf: Buffer;
/** A completed upload of a PDF with two pages and a PNG. */
let document: Json;

beforeAll(async () => {
  service = await startService();
  png = await makeImage({ width: 60, height: 50, color: GREEN });
  pdf = await makePdf([{ color: RED }, { color: BLUE }]);
  const { body } = await service.upload([
    ['two pages.pdf', pdf],
    ['ein Bild.png', png],
  ]);
  document = await service.done(body.id);
});
afterAll(() => service.stop());

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

function expectProblem(response: request.Response, status: number, code: string): void {
  expect(response.status).toBe(status);
  expect(response.headers['content-type']).toMatch(/^application\/problem\+json/);
  expect(response.headers['x-request-id']).toBe(response.body.request_id);
  expect(response.body).toEqual({
    type: 'about:blank',
    title: expect.any(String),
    status,
    code,
    detail: expect.any(String),
    request_id: expect.stringMatching(/./),
  });
}

test('POST answers at once with the document of the queued upload', async () => {
  const answer = await request(service.url)
    .post('/uploads')
    .field({ priority: 'high', dpi: '100', pages: '1' })
    .attach('file', png, 'a.png');
  expect(answer.status).toBe(200);
  expect(answer.headers['content-type']).toMatch(/^application\/json/);
  const { id } = answer.body;
  expect(id).toMatch(UUID_V7);
  expect(answer.headers.location).toBe(`/uploads/${id}`);
  expect(answer.body).toEqual({
    id,
    status: 'queued',
    created_at: expect.stringMatching(TIME),
    finished_at: null,
    expires_at: null,
    priority: 'high',
    notify_url: null,
    progress: { pages_done: 0, pages_total: null },
    error: null,
    originals: [
      {
        original: 1,
        filename: 'a.png',
        media_type: 'image/png',
        bytes: png.length,
        sha256: sha256(png),
        path: `uploads/${id}/originals/1.png`,
        page_count: null,
        error: null,
        url: `/uploads/${id}/originals/1`,
      },
    ],
    pages: [],
    pages_next_cursor: null,
  });
  await service.done(id);
});

test('the document of a completed upload has its originals and pages in order', async () => {
  const { id } = document;
  expect(document).toEqual({
    id,
    status: 'completed',
    created_at: expect.stringMatching(TIME),
    finished_at: expect.stringMatching(TIME),
    expires_at: null,
    priority: 'normal',
    notify_url: null,
    progress: { pages_done: 3, pages_total: 3 },
    error: null,
    originals: [
      {
        original: 1,
        filename: 'two pages.pdf',
        media_type: 'application/pdf',
        bytes: pdf.length,
        sha256: sha256(pdf),
        path: `uploads/${id}/originals/1.pdf`,
        page_count: 2,
        error: null,
        url: `/uploads/${id}/originals/1`,
      },
      {
        original: 2,
        filename: 'ein Bild.png',
        media_type: 'image/png',
        bytes: png.length,
        sha256: sha256(png),
        path: `uploads/${id}/originals/2.png`,
        page_count: 1,
        error: null,
        url: `/uploads/${id}/originals/2`,
      },
    ],
    pages: [
      { original: 1, page: 1, dpi: 200, engine: 'pdfium', width: 556, height: 834 },
      { original: 1, page: 2, dpi: 200, engine: 'pdfium', width: 556, height: 834 },
      { original: 2, page: 1, dpi: null, engine: 'sharp', width: 60, height: 50 },
    ].map(({ original, page, ...facts }) => ({
      original,
      page,
      ...facts,
      status: 'completed',
      path: `uploads/${id}/pages/${original}-000${page}.1.png`,
      bytes: expect.any(Number),
      reduced: null,
      note: null,
      error: null,
      url: `/uploads/${id}/pages/${original}/${page}.png`,
    })),
    pages_next_cursor: null,
  });
  expect(Date.parse(document.finished_at)).toBeGreaterThanOrEqual(Date.parse(document.created_at));
});

test('status, pages and originals are parts of the document', async () => {
  const { id, originals, pages } = document;
  expect(await service.get(`/uploads/${id}/status`)).toEqual({
    id,
    status: 'completed',
    done: true,
    progress: { pages_done: 3, pages_total: 3 },
    error: null,
  });
  expect(await service.get(`/uploads/${id}/pages`)).toEqual({
    id,
    status: 'completed',
    items: pages,
    next_cursor: null,
  });
  expect(await service.get(`/uploads/${id}/originals`)).toEqual({ id, items: originals });
});

test('originals are returned byte for byte', async () => {
  expect(await service.bytes(document.originals[0].url)).toEqual(pdf);
  expect(await service.bytes(document.originals[1].url)).toEqual(png);
});

test('unknown and malformed paths are 404', async () => {
  const { id } = document;
  const routes = [
    ...['', '/status', '/pages', '/originals', '/originals/1', '/pages/1/1.png'].flatMap((rest) => [
      `/uploads/${randomUUID()}${rest}`,
      `/uploads/not-a-uuid${rest}`,
      `/uploads/${id.slice(0, -1)}${rest}`,
    ]),
    ...['0', '3', '-1', '1.5', 'x', '%00', '2147483647', '2147483648', '9'.repeat(40), '1%27'].map(
      (number) => `/uploads/${id}/originals/${number}`,
    ),
    ...['0/1', '1/0', '1/3', '3/1', '1/x', '2147483648/1', '1/99999999999999999999', '-1/-1'].map(
      (numbers) => `/uploads/${id}/pages/${numbers}.png`,
    ),
    `/uploads/${id}/pages/1/1.jpg`,
    `/uploads/${id}/nothing`,
    '/nothing',
    '/assets/nothing.js',
    '/uploads/%2e%2e%2f%2e%2e%2fetc%2fpasswd',
  ];
  for (const route of routes) expectProblem(await request(service.url).get(route), 404, 'not_found');
  expectProblem(await request(service.url).delete(`/uploads/${randomUUID()}`), 404, 'not_found');
  expectProblem(await request(service.url).delete('/uploads/x'), 404, 'not_found');
  expectProblem(await request(service.url).put(`/uploads/${id}`), 404, 'not_found');
});

test('a path with an invalid escape is 400', async () => {
  expectProblem(await request(service.url).get('/uploads/%E0%A4%A'), 400, 'invalid_request');
});

test('every request has a different id', async () => {
  const ids = await Promise.all([1, 2, 3].map(async () => (await request(service.url).get('/x')).body.request_id));
  expect(new Set(ids).size).toBe(3);
});

test('a list is complete and without repeats, newest first, while uploads are added', async () => {
  const ids: string[] = [];
  for (let count = 0; count < 7; count++) ids.unshift((await service.upload([['a.png', png]])).body.id);
  await Promise.all(ids.map((id) => service.done(id)));

  const listed: string[] = [];
  const sizes: number[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: Json = await service.get(`/uploads?limit=3${cursor && `&cursor=${cursor}`}`);
    listed.push(...page.items.map(({ id }: Json) => id));
    sizes.push(page.items.length);
    cursor = page.next_cursor;
    if (sizes.length === 1) await service.done((await service.upload([['late.png', png]])).body.id);
  }
  expect(listed.slice(0, 7)).toEqual(ids);
  expect(listed).toContain(document.id);
  expect(listed).toEqual(listed.toSorted().reverse());
  expect(new Set(listed).size).toBe(listed.length);
  expect(sizes.slice(0, -1).every((size) => size === 3)).toBe(true);

  const exact = await service.get(`/uploads?limit=${listed.length + 1}`);
  expect([exact.items.length, exact.next_cursor]).toEqual([listed.length + 1, null]);
});

test('a list item is the upload without originals and pages, with the names of its files', async () => {
  const { items } = await service.get('/uploads?limit=200');
  const { originals, pages, pages_next_cursor, ...summary } = document;
  expect(items).toContainEqual({ ...summary, filenames: originals.map(({ filename }: Json) => filename) });
});

test('a list can be filtered by status', async () => {
  const { body } = await service.upload([['bad.png', png.subarray(0, 40)]]);
  await service.done(body.id);
  const failed = await service.get('/uploads?status=failed');
  expect(failed).toEqual({ items: [expect.objectContaining({ id: body.id, status: 'failed' })], next_cursor: null });
  expect(await service.get('/uploads?status=cancelled')).toEqual({ items: [], next_cursor: null });
  const completed = await service.get('/uploads?status=completed&limit=2');
  expect(completed.items.map(({ status }: Json) => status)).toEqual(['completed', 'completed']);
  expect(completed.next_cursor).toBe(completed.items[1].id);
});

test.each([
  'status=done',
  'status=',
  'limit=0',
  'limit=201',
  'limit=x',
  'limit=-1',
  'limit=1.5',
  'cursor=x',
  'cursor=',
  'cursor=1',
  'limit=1&limit=2',
  'status[a]=failed',
  'offset=3',
])('the list refuses ?%s and names the parameter', async (query) => {
  const response = await request(service.url).get(`/uploads?${query}`);
  expectProblem(response, 400, 'invalid_request');
  expect(response.body.detail).toContain(/^\w+/.exec(query)?.[0]);
});

test('DELETE removes rows and files, and the upload is 404 afterwards', async () => {
  const { body } = await service.upload([['two.pdf', pdf]]);
  const { id } = await service.done(body.id);
  const own = async () => (await service.storedFiles()).filter((file) => file.includes(id));
  expect(await own()).toHaveLength(3);
  const deleted = await request(service.url).delete(`/uploads/${id}`);
  expect([deleted.status, deleted.text]).toEqual([204, '']);
  expect(await own()).toEqual([]);
  for (const route of ['', '/status', '/pages', '/originals', '/originals/1', '/pages/1/1.png'])
    expectProblem(await request(service.url).get(`/uploads/${id}${route}`), 404, 'not_found');
  for (const route of ['/cancel', '/retry'])
    expectProblem(await request(service.url).post(`/uploads/${id}${route}`), 404, 'not_found');
  expectProblem(await request(service.url).delete(`/uploads/${id}`), 404, 'not_found');
  const { rows } = await service.pool.query('select count(*)::int as jobs from jobs where upload_id = $1', [id]);
  expect(rows).toEqual([{ jobs: 0 }]);
});

test('one of two concurrent DELETEs succeeds', async () => {
  const { body } = await service.upload([['a.png', png]]);
  await service.done(body.id);
  const statuses = await Promise.all(
    [1, 2].map(async () => (await request(service.url).delete(`/uploads/${body.id}`)).status),
  );
  expect(statuses.toSorted()).toEqual([204, 404]);
});

test('no work and no unlisted file is left', async () => {
  expect(await service.leftovers()).toEqual(NOTHING_LEFT);
});
