import { randomBytes } from 'node:crypto';
import { readdir, readFile, readlink, rename } from 'node:fs/promises';
import { get as httpGet } from 'node:http';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { parse } from 'content-disposition';
import sharp from 'sharp';
import request from 'supertest';
import yauzl from 'yauzl';
import { BLUE, makeImage, makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../../support/service.ts';

let service: Service;
let document: Json;

beforeAll(async () => {
  service = await startService({ env: { LOG_LEVEL: 'fatal' } });
  const { body } = await service.upload([
    ['Bücher "2026"/..\\süß & Söhne.pdf', await makePdf([{ color: RED }, { color: BLUE }])],
    ['photo.png', await makeImage({ width: 40, height: 30, color: BLUE })],
  ]);
  document = await service.done(body.id);
});
afterAll(() => service.stop());

const archiveUrl = (id: string) => `${service.url}/uploads/${id}/archive.zip`;

async function readZip(bytes: Buffer): Promise<{ name: string; stored: boolean; content: Buffer }[]> {
  const zip = await yauzl.fromBufferPromise(bytes);
  const entries = [];
  for await (const entry of zip.eachEntry()) {
    const content = await buffer(await zip.openReadStreamPromise(entry));
    entries.push({ name: entry.fileName, stored: entry.compressionMethod === 0, content });
  }
  return entries;
}

/** The page files that the API has open. */
async function openPages(): Promise<string[]> {
  const folder = `/proc/${service.api.pid}/fd`;
  const names = await Promise.all(
    (await readdir(folder).catch(() => [])).map((name) => readlink(path.join(folder, name)).catch(() => '')),
  );
  return names.filter((name) => name.endsWith('.png'));
}

/** A PNG that cannot be compressed, of about 120 KB. */
function makeNoise(): Promise<Buffer> {
  return sharp(randomBytes(200 * 200 * 3), { raw: { width: 200, height: 200, channels: 3 } })
    .png()
    .toBuffer();
}

/** A completed upload with many pages, whose rows share one file. */
async function uploadOfMany(pages: number): Promise<string> {
  const { body } = await service.upload([['noise.png', await makeNoise()]]);
  const { id } = await service.done(body.id);
  await service.pool.query(
    `insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256)
     select upload_id, original, n, status, path, width, height, bytes, sha256
     from pages, generate_series(2, $2::int) n where upload_id = $1 and page = 1`,
    [id, pages],
  );
  return id;
}

test('an archive contains the pages in order and uncompressed, with its size, name and ETag', async () => {
  const { id, pages } = document;
  const response = await fetch(archiveUrl(id));
  const bytes = Buffer.from(await response.arrayBuffer());
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('application/zip');
  expect(response.headers.get('content-length')).toBe(String(bytes.length));
  expect(parse(response.headers.get('content-disposition') ?? '')).toEqual({
    type: 'attachment',
    parameters: expect.objectContaining({ filename: 'süß & Söhne.zip' }),
  });
  const entries = await readZip(bytes);
  expect(entries.map(({ name }) => name)).toEqual(['1-0001.png', '1-0002.png', '2-0001.png']);
  expect(entries.every(({ stored }) => stored)).toBe(true);
  for (const [index, { url }] of pages.entries()) expect(entries[index]?.content).toEqual(await service.bytes(url));

  // The same ETag means the same bytes.
  const again = await fetch(archiveUrl(id));
  expect(again.headers.get('etag')).toBe(response.headers.get('etag'));
  expect(Buffer.from(await again.arrayBuffer())).toEqual(bytes);
  const tag = response.headers.get('etag') ?? '';
  expect(tag).toMatch(/^"/);
  const same = await request(service.url).get(`/uploads/${id}/archive.zip`).set('If-None-Match', tag);
  expect([same.status, same.text]).toEqual([304, '']);
  const head = await fetch(archiveUrl(id), { method: 'HEAD' });
  expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes.length)]);
});

test('an upload that is unknown, not ended or without pages has no archive', async () => {
  const { body } = await service.upload([['broken.pdf', Buffer.from('%PDF-1.7\nnothing')]]);
  const failed = await service.done(body.id);
  expect(failed.status).toBe('failed');
  expect(await service.send('GET', `/uploads/${failed.id}/archive.zip`)).toMatchObject({ status: 404 });
  await service.pool.query(`update uploads set status = 'processing', finished_at = null where id = $1`, [failed.id]);
  const unfinished = await service.send('GET', `/uploads/${failed.id}/archive.zip`);
  expect(unfinished).toMatchObject({ status: 409, body: { code: 'conflict' } });
  await service.pool.query(`update uploads set status = 'failed', finished_at = now() where id = $1`, [failed.id]);
  const nobody = '00000000-0000-7000-8000-000000000000';
  expect(await service.send('GET', `/uploads/${nobody}/archive.zip`)).toMatchObject({ status: 404 });
  await expectNothingLeft(service);
});

test('thousands of pages are streamed in little memory, and a client that disconnects leaves no file open', async () => {
  const id = await uploadOfMany(2_000);
  const status = () => readFile(`/proc/${service.api.pid}/status`, 'utf8');
  const residentMb = async () => Number(/VmRSS:\s+(\d+)/.exec(await status())?.[1]) / 1024;
  const before = await residentMb();
  let bytes = 0;
  let highest = 0;
  const response = await fetch(archiveUrl(id));
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    bytes += chunk.length;
    if (Math.random() < 0.01) highest = Math.max(highest, await residentMb());
  }
  expect(bytes).toBe(Number(response.headers.get('content-length')));
  expect(bytes).toBeGreaterThan(200_000_000);
  expect(highest - before).toBeLessThan(150);

  await new Promise<void>((resolve) => {
    const going = httpGet(archiveUrl(id), (answer) => {
      answer.once('data', () => {
        going.destroy();
        resolve();
      });
    });
    going.on('error', () => undefined);
  });
  await until(async () => (await openPages()).length === 0);
});

test('an archive with a missing file is aborted, so that the client does not take it for complete', async () => {
  const { pages } = document;
  const file = path.join(service.folder, 'store', pages[1].path);
  await rename(file, `${file}.away`);
  try {
    await expect(fetch(archiveUrl(document.id)).then((response) => response.arrayBuffer())).rejects.toThrow();
  } finally {
    await rename(`${file}.away`, file);
  }
  expect((await fetch(archiveUrl(document.id))).ok).toBe(true);
});
