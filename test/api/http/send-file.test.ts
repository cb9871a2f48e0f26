import { createHash } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { parse } from 'content-disposition';
import request from 'supertest';
import { BLUE, GREEN, makeImage, makePdf, RED } from '../../support/files.ts';
import { type Json, type Service, startService, until } from '../../support/service.ts';
import { expectProblem } from './problems.ts';

let service: Service;
let pdf: Buffer;
/** A completed upload of a PDF with two pages and a PNG. */
let document: Json;
beforeAll(async () => {
  service = await startService({ keepLog: true, env: { LOG_LEVEL: 'error' } });
  pdf = await makePdf([{ color: RED }, { color: BLUE }]);
  const { body } = await service.upload([
    ['Bücher "2026"/..\\süß & Söhne.pdf', pdf],
    ['photo.png', await makeImage({ width: 60, height: 50, color: GREEN })],
  ]);
  document = await service.done(body.id);
});
afterAll(() => service.stop());

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const get = (url: string, headers: Record<string, string> = {}) => fetch(service.url + url, { headers });
const pathOf = (file: Json) => path.join(service.folder, 'store', file.path);

test('files have their type, length and ETag, and are cached permanently', async () => {
  for (const [{ url, bytes }, type] of [
    [document.originals[0], 'application/pdf'],
    [document.originals[1], 'image/png'],
    [document.pages[0], 'image/png'],
  ]) {
    const response = await get(url);
    const body = Buffer.from(await response.arrayBuffer());
    expect([response.status, body.length]).toEqual([200, bytes]);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': type,
      'content-length': String(bytes),
      etag: `"${sha256(body)}"`,
      'cache-control': 'private, max-age=31536000, immutable',
      'accept-ranges': 'bytes',
      'x-content-type-options': 'nosniff',
    });
    const head = await fetch(service.url + url, { method: 'HEAD' });
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes)]);
  }
});

test('a file that the client has is not sent again', async () => {
  const { url, sha256: hash } = document.originals[0];
  // fetch would add `Cache-Control: no-cache`.
  const getUnless = (tags: string) => request(service.url).get(url).set('If-None-Match', tags);
  const same = await getUnless(`"${hash}"`);
  expect([same.status, same.text, same.headers.etag]).toEqual([304, '', `"${hash}"`]);
  expect(same.headers['cache-control']).toMatch(/immutable/);
  await getUnless(`"another", W/"${hash}"`).expect(304);
  await getUnless('"another"').expect(200);
});

test.each([
  ['bytes=0-9', 0, 10],
  ['bytes=5-5', 5, 6],
  ['bytes=100-', 100, Number.POSITIVE_INFINITY],
  ['bytes=-7', -7, Number.POSITIVE_INFINITY],
  ['bytes=100-99999999', 100, Number.POSITIVE_INFINITY],
])('the range %s is answered with that part', async (range, from, to) => {
  const response = await get(document.originals[0].url, { Range: range });
  const expected = pdf.subarray(from, to);
  const start = pdf.indexOf(expected);
  expect(response.status).toBe(206);
  expect(Buffer.from(await response.arrayBuffer())).toEqual(expected);
  expect(response.headers.get('content-length')).toBe(String(expected.length));
  expect(response.headers.get('content-range')).toBe(`bytes ${start}-${start + expected.length - 1}/${pdf.length}`);
});

test('a range applies only if the file has the ETag in If-Range', async () => {
  const { url, sha256: hash } = document.originals[0];
  const ranged = (tag: string) => get(url, { Range: 'bytes=0-9', 'If-Range': tag });
  expect((await ranged(`"${hash}"`)).status).toBe(206);
  expect((await ranged('"another"')).status).toBe(200);
});

test('a range beyond the end is refused with the size, and the error is not cached', async () => {
  const headers = { Range: `bytes=${pdf.length}-` };
  const answer = await service.send('GET', document.originals[0].url, undefined, headers);
  expectProblem(answer, 416, 'invalid_request', new RegExp(`${pdf.length} bytes`));
  expect(answer.headers.get('content-range')).toBe(`bytes */${pdf.length}`);
  expect([answer.headers.get('cache-control'), answer.headers.get('etag')]).toEqual([null, null]);
});

test('a file that is missing in the store is 404, and the error is not cached', async () => {
  const { body } = await service.upload([['a.png', await makeImage()]]);
  const { id, pages } = await service.done(body.id);
  await rm(pathOf(pages[0]));
  const answer = await service.send('GET', pages[0].url);
  expectProblem(answer, 404, 'not_found');
  expect(answer.headers.get('cache-control')).toBeNull();
  expect((await service.delete(`/uploads/${id}`)).status).toBe(204);
});

test('an error of the store while a file is sent is logged, and closes the connection', async () => {
  const [page] = document.pages;
  await rename(pathOf(page), `${pathOf(page)}.away`);
  // A folder can be opened as a file, and fails when it is read.
  await mkdir(pathOf(page));
  try {
    await expect(get(page.url).then((response) => response.arrayBuffer())).rejects.toThrow();
    await until(async () => service.log().includes('file not sent completely'));
    expect(service.log()).toMatch(/EISDIR/);
  } finally {
    await rm(pathOf(page), { recursive: true });
    await rename(`${pathOf(page)}.away`, pathOf(page));
  }
  expect((await get(page.url)).status).toBe(200);
});

test('originals and pages have the file name that the client sent, made safe', async () => {
  const nameAt = async (url: string) => {
    const response = await get(url);
    await response.arrayBuffer();
    const { type, parameters } = parse(response.headers.get('content-disposition') ?? '');
    return [type, parameters.filename];
  };
  expect(await nameAt(document.originals[0].url)).toEqual(['attachment', 'süß & Söhne.pdf']);
  expect(await nameAt(document.pages[1].url)).toEqual(['inline', 'süß & Söhne-0002.png']);
  expect(await nameAt(document.pages[2].url)).toEqual(['inline', 'photo-0001.png']);
  for (const [filename, name] of [
    [null, 'original-2.png'],
    ['../../.png', 'original-2.png'],
    ['C:\\Users\\me\\a\r\nSet-Cookie: b.jpeg', 'a__Set-Cookie_ b.png'],
    ['\u202Egpj.exe.pdf', '_gpj.exe.png'],
    ['%41%2f.png', '%41%2f.png'],
    ['日本語.png', '日本語.png'],
    ['x'.repeat(5_000), `${'x'.repeat(150)}.png`],
  ]) {
    await service.pool.query('update originals set filename = $2 where upload_id = $1 and original = 2', [
      document.id,
      filename,
    ]);
    expect(await nameAt(document.originals[1].url)).toEqual(['attachment', name]);
  }
});
