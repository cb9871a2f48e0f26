import { createHash, randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import request from 'supertest';
import { BLUE, GREEN, makeImage, makePdf, RED } from '../../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService } from '../../support/service.ts';

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let service: Service;
let png: Buffer;
let pdf: Buffer;
/** An upload of a PDF with two pages and a PNG, done. */
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

test('an upload is answered at once with its document, still queued', async () => {
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

test('the document of a finished upload has everything, in order', async () => {
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

test('status, pages and originals have their own answers', async () => {
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

test('originals come back byte for byte', async () => {
  expect(await service.bytes(document.originals[0].url)).toEqual(pdf);
  expect(await service.bytes(document.originals[1].url)).toEqual(png);
});

test('files carry their type, length and a tag, and may be kept for good', async () => {
  for (const [{ url, bytes }, type] of [
    [document.originals[0], 'application/pdf'],
    [document.originals[1], 'image/png'],
    [document.pages[0], 'image/png'],
  ]) {
    const response = await fetch(service.url + url);
    const body = Buffer.from(await response.arrayBuffer());
    expect(response.status).toBe(200);
    expect(body.length).toBe(bytes);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': type,
      'content-length': String(bytes),
      etag: `"${sha256(body)}"`,
      'cache-control': expect.stringMatching(/max-age=31536000, immutable/),
      'accept-ranges': 'bytes',
      'x-content-type-options': 'nosniff',
    });
    const head = await fetch(service.url + url, { method: 'HEAD' });
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes)]);
  }
});

test('a file that the client has already is not sent again', async () => {
  const { url, sha256: hash } = document.originals[0];
  const same = await request(service.url).get(url).set('If-None-Match', `"${hash}"`);
  expect([same.status, same.text]).toEqual([304, '']);
  expect(same.headers.etag).toBe(`"${hash}"`);
  expect(same.headers['cache-control']).toMatch(/immutable/);
  await request(service.url).get(url).set('If-None-Match', `"another", W/"${hash}"`).expect(304);
  await request(service.url).get(url).set('If-None-Match', '"another"').expect(200);
});

test.each([
  ['bytes=0-9', 0, 10],
  ['bytes=5-5', 5, 6],
  ['bytes=100-', 100, Number.POSITIVE_INFINITY],
  ['bytes=-7', -7, Number.POSITIVE_INFINITY],
  ['bytes=100-99999999', 100, Number.POSITIVE_INFINITY],
])('the range %s is answered with that part', async (range, from, to) => {
  const response = await fetch(service.url + document.originals[0].url, { headers: { Range: range } });
  const expected = pdf.subarray(from, to);
  const start = pdf.indexOf(expected);
  expect(response.status).toBe(206);
  expect(Buffer.from(await response.arrayBuffer())).toEqual(expected);
  expect(response.headers.get('content-length')).toBe(String(expected.length));
  expect(response.headers.get('content-range')).toBe(`bytes ${start}-${start + expected.length - 1}/${pdf.length}`);
});

test('a range counts only if the file is still the one the client began with', async () => {
  const { url, sha256: hash } = document.originals[0];
  const ranged = (tag: string) => fetch(service.url + url, { headers: { Range: 'bytes=0-9', 'If-Range': tag } });
  expect((await ranged(`"${hash}"`)).status).toBe(206);
  expect((await ranged('"another"')).status).toBe(200);
});

test('a range beyond the end is refused with the size, and that answer may not be kept', async () => {
  const response = await request(service.url).get(document.originals[0].url).set('Range', `bytes=${pdf.length}-`);
  expectProblem(response, 416, 'invalid_request');
  expect(response.headers['content-range']).toBe(`bytes */${pdf.length}`);
  expect(response.headers['cache-control'] ?? '').not.toMatch(/immutable|max-age=[1-9]/);
  expect(response.headers.etag).toBeUndefined();
});

test('what does not exist is 404, whatever the address looks like', async () => {
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

test('an address with a broken escape is a bad request, not a failure', async () => {
  expectProblem(await request(service.url).get('/uploads/%E0%A4%A'), 400, 'invalid_request');
});

test('every request has an id of its own', async () => {
  const ids = await Promise.all([1, 2, 3].map(async () => (await request(service.url).get('/x')).body.request_id));
  expect(new Set(ids).size).toBe(3);
});

test('a list has no gaps and no repeats, newest first, while uploads come in', async () => {
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

test('a list item is the upload without its parts, with the names of its files', async () => {
  const { items } = await service.get('/uploads?limit=200');
  const { originals, pages, pages_next_cursor, ...summary } = document;
  expect(items).toContainEqual({ ...summary, filenames: originals.map(({ filename }: Json) => filename) });
});

test('a list can be of one status', async () => {
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
])('the list refuses ?%s and names what is wrong', async (query) => {
  const response = await request(service.url).get(`/uploads?${query}`);
  expectProblem(response, 400, 'invalid_request');
  expect(response.body.detail).toContain(/^\w+/.exec(query)?.[0]);
});

test('expires_at is kept and given back in UTC', async () => {
  const { status, body } = await service.upload([['a.png', png]], { expires_at: '2099-01-01T12:00:00+02:00' });
  expect([status, body.expires_at]).toEqual([200, '2099-01-01T10:00:00.000Z']);
  expect((await service.done(body.id)).expires_at).toBe('2099-01-01T10:00:00.000Z');
});

test.each(['2020-01-01T00:00:00Z', 'tomorrow', '2099-01-01', '2099-13-01T00:00:00Z', '9999-01-01T00:00:00Z'])(
  'expires_at %j is refused',
  async (expires_at) => {
    const { status, body } = await service.upload([['a.png', png]], { expires_at });
    expect([status, body.code, body.detail]).toEqual([400, 'invalid_request', expect.stringMatching(/^expires_at: /)]);
  },
);

test('DELETE removes rows and files, and the upload is 404 from then on', async () => {
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

test('of two that delete an upload at once, one has done it', async () => {
  const { body } = await service.upload([['a.png', png]]);
  await service.done(body.id);
  const statuses = await Promise.all(
    [1, 2].map(async () => (await request(service.url).delete(`/uploads/${body.id}`)).status),
  );
  expect(statuses.toSorted()).toEqual([204, 404]);
});

test('a file that has gone from the disk is 404, and that answer may not be kept', async () => {
  const { body } = await service.upload([['a.png', png]]);
  const { id, pages } = await service.done(body.id);
  await rm(path.join(service.folder, 'store', pages[0].path));
  const response = await request(service.url).get(pages[0].url);
  await request(service.url).delete(`/uploads/${id}`).expect(204);
  expectProblem(response, 404, 'not_found');
  expect(response.headers['cache-control'] ?? '').not.toMatch(/immutable/);
});

test('the service says that it lives and that it is ready', async () => {
  expect(await service.get('/health/live')).toEqual({ status: 'ok' });
  expect(await service.get('/health/ready')).toMatchObject({ status: 'ok', checks: { postgres: 'ok', store: 'ok' } });
});

test('nothing is left at work or on disk that no upload accounts for', async () => {
  expect(await service.leftovers()).toEqual(NOTHING_LEFT);
});
