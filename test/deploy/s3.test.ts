import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { GetObjectCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import request from 'supertest';
import yauzl from 'yauzl';
import { filePart, openPost } from '../api/uploads/multipart.ts';
import { makeImage, makePdf, RED } from '../support/files.ts';
import { type S3, startS3 } from '../support/s3.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';

const Bucket = 'sheetmill';

let s3: S3;
let service: Service;
/** 30 pages, in two ranges. */
let book: Buffer;
beforeAll(async () => {
  s3 = await startS3();
  service = await startService({ env: { ...s3.env, LOG_LEVEL: 'warn', SHUTDOWN_GRACE_SECONDS: '1' }, keepLog: true });
  book = await makePdf(Array.from({ length: 30 }, () => ({ color: RED })));
});
afterAll(async () => {
  await service.stop();
  await s3.stop();
});
/** Deleted uploads leave no files in the bucket and on the disk. */
afterEach(async () => {
  const { items } = await service.get('/uploads');
  for (const { id } of items) await service.delete(`/uploads/${id}`);
  await until(async () => (await keys()).length === 0);
  expect(s3.unfinished()).toEqual([]);
  const converter = service.converters[0]?.pid;
  const work = (await readdir(tmpdir())).find((name) => name.startsWith(`sheetmill-work-${hostname()}-${converter}-`));
  const held = () => (work === undefined ? [] : readdir(path.join(tmpdir(), work)));
  // Only the folders of idle sandboxes remain.
  await until(async () => (await held()).every((name) => name.startsWith('run-')));
  expect(await service.audit()).toEqual([]);
});

/** The keys in the bucket. */
async function keys(): Promise<string[]> {
  const { Contents = [] } = await s3.client.send(new ListObjectsV2Command({ Bucket }));
  return Contents.map(({ Key = '' }) => Key).sort();
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

test('originals and pages are stored in the bucket and served as from a disk', async () => {
  const photo = await makeImage({ format: 'jpeg', width: 640, height: 480 });
  const { body } = await service.upload(
    [
      ['book.pdf', book],
      ['photo.jpg', photo],
    ],
    { dpi: '36' },
  );
  const upload = await service.done(body.id);
  expect(upload).toMatchObject({ status: 'completed', progress: { pages_done: 31, pages_total: 31 } });
  const paths = [...upload.originals, ...upload.pages].map(({ path }: Json) => path);
  expect(await keys()).toEqual(paths.map((path) => `files/${path}`).toSorted());

  const [, { url, sha256: tag, bytes }] = upload.originals;
  const ask = async (headers: Record<string, string>, method = 'GET') => {
    const answer = await fetch(service.url + url, { method, headers });
    return { status: answer.status, headers: answer.headers, bytes: Buffer.from(await answer.arrayBuffer()) };
  };
  const whole = await ask({});
  expect([whole.status, sha256(whole.bytes), tag]).toEqual([200, sha256(photo), sha256(photo)]);
  expect(Object.fromEntries(whole.headers)).toMatchObject({
    etag: `"${tag}"`,
    'content-length': String(bytes),
    'content-type': 'image/jpeg',
    'accept-ranges': 'bytes',
    'cache-control': expect.stringContaining('immutable'),
    'content-disposition': expect.stringContaining('photo.jpg'),
  });
  const part = await ask({ Range: 'bytes=10-19' });
  expect([part.status, part.headers.get('content-range')]).toEqual([206, `bytes 10-19/${bytes}`]);
  expect(part.bytes).toEqual(photo.subarray(10, 20));
  expect((await ask({ Range: 'bytes=-5', 'If-Range': `"${tag}"` })).bytes).toEqual(photo.subarray(-5));
  expect((await ask({ Range: 'bytes=-5', 'If-Range': '"other"' })).bytes).toEqual(photo);
  await request(service.url).get(url).set('If-None-Match', `"${tag}"`).set('Range', `bytes=${bytes}-`).expect(304);
  expect(await ask({ 'If-Match': '"other"' })).toMatchObject({ status: 412 });
  const beyond = await ask({ Range: `bytes=${bytes}-` });
  expect([beyond.status, beyond.headers.get('content-range')]).toEqual([416, `bytes */${bytes}`]);
  expect(beyond.headers.get('cache-control')).toBeNull();
  const head = await ask({}, 'HEAD');
  expect([head.status, head.headers.get('content-length'), head.bytes.length]).toEqual([200, String(bytes), 0]);

  const zip = await yauzl.fromBufferPromise(await service.bytes(`/uploads/${upload.id}/archive.zip`));
  const zipped: string[] = [];
  for await (const entry of zip.eachEntry()) {
    zipped.push(sha256(await buffer(await zip.openReadStreamPromise(entry))));
  }
  const served = await Promise.all(upload.pages.map(async (page: Json) => sha256(await service.bytes(page.url))));
  expect(zipped).toEqual(served);
});

test('tasks read files from the bucket and write files to it', async () => {
  const { body } = await service.upload([['book.pdf', book]], { pages: '1-3', dpi: '36' });
  const { id } = await service.done(body.id);
  const [archive, checksum] = await service.submit([
    { type: 'archive', payload: { upload_id: id } },
    { type: 'checksum', payload: { upload_id: id, original: 1 } },
  ]);
  const { result } = await service.jobIn('completed', archive.job_id);
  expect(result).toMatchObject({ pages: 3 });
  const { Body } = await s3.client.send(new GetObjectCommand({ Bucket, Key: `files/${result.path}` }));
  expect(sha256(await buffer(Body as Readable))).toBe(result.sha256);
  expect((await service.jobIn('completed', checksum.job_id)).result).toMatchObject({ digest: sha256(book) });
});

test('a refused or aborted upload leaves nothing in the bucket', async () => {
  const files: [string, Uint8Array][] = [
    ['good.pdf', book],
    ['bad.png', Buffer.from('text')],
  ];
  expect(await service.upload(files)).toMatchObject({ status: 415 });
  expect(await service.upload([['good.pdf', book]], { dpi: '1' })).toMatchObject({ status: 400 });
  const post = openPost(service.url, { 'Transfer-Encoding': 'chunked' });
  post.write(filePart('book.pdf', Buffer.concat([book, randomBytes(12 * 2 ** 20)])).subarray(0, -2));
  await until(async () => s3.unfinished().length === 1);
  post.destroy();
  await until(async () => s3.unfinished().length === 0);
});

test('during an outage of S3 uploads are refused and running jobs wait', async () => {
  const begun = Promise.withResolvers<void>();
  s3.holdRequests((url) => {
    if (!url.includes('/pages/')) return undefined;
    begun.resolve();
    return new Promise(() => {});
  });
  const { body } = await service.upload([['book.pdf', book]], { pages: '1-3', dpi: '36' });
  await begun.promise;
  await s3.goAway();
  s3.holdRequests(() => undefined);
  const refused = await service.upload([['large.pdf', Buffer.concat([book, randomBytes(12 * 2 ** 20)])]]);
  expect(refused).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  expect(refused.body.detail).toMatch(/the store/);
  expect(await service.send('GET', body.originals[0].url)).toMatchObject({ status: 503 });
  expect(await service.send('GET', '/health/ready')).toMatchObject({ status: 503 });
  await until(async () => /"process":"converter".*database or store unavailable, retrying/.test(service.log()));
  await s3.comeBack();
  expect(await service.done(body.id)).toMatchObject({ status: 'completed', progress: { pages_done: 3 } });
  const { rows } = await service.pool.query('select 1 from jobs where attempt <> 1 or failures > 0');
  expect(rows).toEqual([]);
});

test('a converter that stops during an outage of S3 returns its jobs without a failed attempt', async () => {
  const begun = Promise.withResolvers<void>();
  s3.holdRequests((url) => {
    if (!url.includes('/pages/')) return undefined;
    begun.resolve();
    return new Promise(() => {});
  });
  const { body } = await service.upload([['book.pdf', book]], { pages: '1', dpi: '36' });
  await begun.promise;
  await s3.goAway();
  s3.holdRequests(() => undefined);
  await service.end(service.converters[0] as never);
  const { rows } = await service.pool.query(
    `select status, failures, pending_children = 0 as waits from jobs where upload_id = $1 and status <> 'completed'`,
    [body.id],
  );
  await s3.comeBack();
  expect(rows).toContainEqual({ status: 'ready', failures: 0, waits: true });
  expect(rows.some(({ failures }) => failures > 0)).toBe(false);
  await service.startConverter();
  expect(await service.done(body.id)).toMatchObject({ status: 'completed' });
});

test('STORE_DOWNLOADS=redirect redirects downloads to S3', async () => {
  const api = await service.startOtherApi({ STORE_DOWNLOADS: 'redirect' });
  const { body } = await service.upload([['book.pdf', book]], { pages: '1', dpi: '36' });
  const { originals, pages } = await service.done(body.id);
  const sent = await fetch(api.url + originals[0].url, { redirect: 'manual' });
  expect([sent.status, sent.headers.get('cache-control'), sent.headers.get('etag')]).toEqual([
    307,
    'private, no-store',
    null,
  ]);
  expect(sent.headers.get('location')).toMatch(new RegExp(`^${s3.env.AWS_ENDPOINT_URL}/sheetmill/files/uploads/`));
  const followed = await fetch(api.url + originals[0].url, { headers: { Range: 'bytes=0-4' } });
  expect([followed.status, await followed.text()]).toEqual([206, '%PDF-']);
  const page = await fetch(api.url + pages[0].url);
  expect([page.status, page.headers.get('content-type'), page.headers.get('content-disposition')]).toEqual([
    200,
    'image/png',
    expect.stringContaining('book-0001.png'),
  ]);
  expect(Buffer.from(await page.arrayBuffer())).toEqual(await service.bytes(pages[0].url));
  // The dashboard may not load files from other origins, so its requests are not redirected.
  await request(api.url).get(originals[0].url).set('Sec-Fetch-Site', 'same-origin').expect(200);
  await request(api.url).get(originals[0].url).set('Sec-Fetch-Site', 'cross-site').expect(307);
  const tag = `"${originals[0].sha256}"`;
  await request(api.url).get(originals[0].url).set('If-None-Match', tag).expect(304);
  const head = await fetch(api.url + originals[0].url, { method: 'HEAD', redirect: 'manual' });
  expect([head.status, head.headers.get('content-length')]).toEqual([200, String(book.length)]);
  await service.end(api.child);
});
