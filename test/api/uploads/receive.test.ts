import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import request from 'supertest';
import { emptyPdf, encryptedPdf, makeImage, makePdf, RED } from '../../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService, until } from '../../support/service.ts';
import { answerTo, BOUNDARY, CLOSING, filePart, openPost, part, post } from './multipart.ts';

const PASSWORD = 'Tr0ub4dor and 3';
const NO_ROWS = [{ uploads: 0, originals: 0, pages: 0, jobs: 0, queued: 0 }];

let png: Buffer;
let threePages: Buffer;
beforeAll(async () => {
  png = await makeImage();
  threePages = await makePdf([{ color: RED }, { color: RED }, { color: RED }]);
});

describe('an invalid upload is refused and leaves nothing behind:', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ converters: 0, env: { MAX_UPLOAD_MB: '1' } });
  });
  afterAll(() => service.stop());
  afterEach(async () => {
    // Received files are removed at the time of the answer, possibly after it.
    await until(async () => (await service.storedFiles()).length === 0, 5_000);
    const { rows } = await service.pool.query(`select (select count(*)::int from uploads) as uploads,
      (select count(*)::int from originals) as originals, (select count(*)::int from pages) as pages,
      (select count(*)::int from jobs) as jobs, (select count(*)::int from pgboss.job) as queued`);
    expect(rows).toEqual(NO_ROWS);
  });

  function expectProblem(answer: { status: number | undefined; body: Json }, status: number, code: string): void {
    expect([answer.status, answer.body.status, answer.body.code]).toEqual([status, status, code]);
    expect(answer.body.request_id).toMatch(/./);
  }

  test.each([
    ['text', 'plain text, not an image'],
    ['a GIF', 'GIF89a\x01\x00\x01\x00'],
    ['an SVG', '<svg xmlns="http://www.w3.org/2000/svg"/>'],
    ['a TIFF', 'II*\0'],
    ['a ZIP', 'PK\x03\x04'],
    ['an empty file', ''],
    ['half a signature', '\x89PNG'],
    ['a PDF header after its first 1024 bytes', `${' '.repeat(1_024)}%PDF-1.7`],
  ])('%s named .png', async (_, content) => {
    expectProblem(await service.upload([['a.png', Buffer.from(content, 'latin1')]]), 415, 'unsupported_media_type');
  });

  test('one invalid file among valid ones, which the error names', async () => {
    const answer = await service.upload([
      ['good.png', png],
      ['bad.png', Buffer.from('text')],
      ['good.png', png],
    ]);
    expectProblem(answer, 415, 'unsupported_media_type');
    expect(answer.body.detail).toMatch(/file 2 \(bad\.png\)/);
  });

  test('a file in another field', async () => {
    const answer = await request(service.url).post('/uploads').attach('document', png, 'a.png');
    expectProblem(answer, 400, 'invalid_request');
    expect(answer.body.detail).toMatch(/"file".*"document"/);
  });

  test('no file', async () => {
    expectProblem(await service.upload([], { dpi: '100' }), 400, 'invalid_request');
    expectProblem(await post(service.url, [CLOSING]), 400, 'invalid_request');
  });

  test('a body that is not multipart', async () => {
    for (const type of [
      'application/json',
      'image/png',
      'application/x-www-form-urlencoded',
      'multipart/mixed; boundary=x',
    ]) {
      const answer = await request(service.url).post('/uploads').set('Content-Type', type).send('{"file": 1}');
      expectProblem(answer, 415, 'unsupported_media_type');
    }
    expectProblem(await request(service.url).post('/uploads'), 415, 'unsupported_media_type');
  });

  test('an invalid text field', async () => {
    const answer = await service.upload([['a.png', png]], { dpi: '601' });
    expectProblem(answer, 400, 'invalid_request');
    expect(answer.body.detail).toBe('dpi: must be a whole number from 36 to 600 (got 601)');
  });

  test('a field that is sent twice', async () => {
    expectProblem(
      await request(service.url).post('/uploads').field('dpi', ['100', '200']).attach('file', png, 'a.png'),
      400,
      'invalid_request',
    );
  });

  test('a field of more than 2 kB, and more than 20 fields', async () => {
    expectProblem(await service.upload([['a.png', png]], { pages: '1,'.repeat(2_000) }), 400, 'invalid_request');
    const fields = Object.fromEntries(Array.from({ length: 21 }, (_, index) => [`field${index}`, '1']));
    expectProblem(await service.upload([['a.png', png]], fields), 400, 'invalid_request');
  });

  test('21 files', async () => {
    const answer = await service.upload(Array.from({ length: 21 }, () => ['a.png', png]));
    expectProblem(answer, 400, 'invalid_request');
    expect(answer.body.detail).toMatch(/more than 20 files/);
  });

  test('a Content-Length over the limit, before the body is sent', async () => {
    const opened = openPost(service.url, { 'Content-Length': 500 * 2 ** 20 });
    opened.flushHeaders();
    expectProblem(await answerTo(opened), 413, 'file_too_large');
    opened.destroy();
  });

  test('a body just over the limit', async () => {
    const answer = await post(service.url, [filePart('a.png', Buffer.concat([png, Buffer.alloc(2 ** 20)])), CLOSING]);
    expectProblem(answer, 413, 'file_too_large');
    expect(answer.body.detail).toMatch(/1 MB/);
  });

  test('a file over the limit, whose client reads only after it has sent everything', async () => {
    const { hostname, port } = new URL(service.url);
    const body = Buffer.concat([filePart('a.png', Buffer.concat([png, Buffer.alloc(9 * 2 ** 20)])), CLOSING]);
    const type = `Host: localhost\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=${BOUNDARY}\r\n`;
    const chunked = [
      `Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n`,
      body,
      '\r\n0\r\n\r\n',
    ] as const;
    for (const message of [[`Content-Length: ${body.length}\r\n\r\n`, body, ''] as const, chunked]) {
      const socket = connect(Number(port), hostname);
      for (const bytes of [`POST /uploads HTTP/1.1\r\n${type}`, ...message]) {
        await new Promise<void>((resolve, reject) => {
          socket.write(bytes, (error) => (error ? reject(error) : resolve()));
        });
      }
      expect(await text(socket)).toMatch(/^HTTP\/1.1 413 .*"file_too_large"/s);
    }
  });

  test('files whose total is over the limit', async () => {
    const half = Buffer.concat([png, Buffer.alloc(600_000)]);
    const files: [string, Buffer][] = [
      ['a.png', half],
      ['b.png', half],
    ];
    expectProblem(await service.upload(files), 413, 'file_too_large');
  });

  test('a chunked body over the limit', async () => {
    const opened = openPost(service.url, { 'Transfer-Encoding': 'chunked' });
    opened.write(Buffer.concat([filePart('a.png', png).subarray(0, -2), Buffer.alloc(2 ** 20)]));
    for (let megabyte = 0; megabyte < 4; megabyte++) opened.write(Buffer.alloc(2 ** 20));
    opened.end();
    expectProblem(await answerTo(opened), 413, 'file_too_large');
    opened.destroy();
  });

  test('an endless body over the limit', async () => {
    const opened = openPost(service.url, { 'Transfer-Encoding': 'chunked' });
    opened.write(filePart('a.png', png).subarray(0, -2));
    const answer = answerTo(opened);
    let isAnswered = false;
    answer.then(
      () => {
        isAnswered = true;
      },
      () => undefined,
    );
    // More than the buffers of the sockets, so the server reads on or closes the connection.
    const closed = once(opened, 'close');
    for (let sent = 0; sent < 64 && !isAnswered && !opened.destroyed; sent++) {
      await Promise.race([new Promise((resolve) => opened.write(Buffer.alloc(2 ** 20), resolve)), closed]);
    }
    await until(async () => isAnswered, 3_000).finally(() => opened.destroy());
    expectProblem(await answer, 413, 'file_too_large');
    opened.destroy();
  });

  test.each([
    ['in its first file', (file: Buffer) => [filePart('a.png', file).subarray(0, -20)]],
    ['in its second file', (file: Buffer) => [filePart('a.png', file), filePart('b.png', file).subarray(0, -20)]],
    ['between two files', (file: Buffer) => [filePart('a.png', file)]],
  ])('an upload that the client aborts %s', async (_, partsOf) => {
    // A file is stored once its type is known.
    const parts = partsOf(Buffer.concat([png, Buffer.alloc(1_024)]));
    for (const headers of [{ 'Content-Length': 500_000 }, { 'Transfer-Encoding': 'chunked' }]) {
      const opened = openPost(service.url, headers);
      opened.write(Buffer.concat(parts));
      await until(async () => (await service.storedFiles()).length === parts.length);
      opened.destroy();
      await until(async () => (await service.storedFiles()).length === 0);
    }
  });

  test.each([
    ['without its closing boundary', () => [filePart('a.png', png)]],
    ['that ends inside a file', () => [filePart('a.png', png).subarray(0, -20)]],
    [
      'that ends inside a file after a complete one',
      () => [filePart('a.png', png), filePart('b.png', png).subarray(0, -9)],
    ],
    ['that ends inside the headers of a part', () => [Buffer.from(`--${BOUNDARY}\r\nContent-Disposition: form-da`)]],
    ['with a malformed part header', () => [part('no colon here', png), CLOSING]],
    ['with a NUL in a file name', () => [filePart('a\0b.png', png), CLOSING]],
    ['that is not multipart', () => [Buffer.from('nothing like multipart')]],
    ['that is empty', () => []],
  ])('a multipart body %s', async (_, parts) => {
    expectProblem(await post(service.url, parts()), 400, 'invalid_request');
  });

  test('a multipart body without a boundary in its Content-Type', async () => {
    const answer = await post(service.url, [filePart('a.png', png), CLOSING], {
      'Content-Type': 'multipart/form-data',
    });
    expectProblem(answer, 400, 'invalid_request');
  });

  test('an upload while the store is missing', async () => {
    await rm(`${service.folder}/store/incoming`, { recursive: true });
    const answer = await service.upload([['a.png', png]]);
    const ready = await request(service.url).get('/health/ready');
    await mkdir(`${service.folder}/store/incoming`);
    expectProblem(answer, 500, 'internal');
    expect(answer.body.detail).not.toMatch(/ENOENT|incoming|\//);
    expect([ready.status, ready.headers['retry-after'], ready.body.code]).toEqual([
      503,
      expect.any(String),
      'unavailable',
    ]);
  });
});

describe('a received file', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ env: { MAX_PAGES: '5', MAX_PIXELS: '1000000', LOG_LEVEL: 'trace' }, keepLog: true });
  });
  afterAll(() => service.stop());

  test.each([
    ['../../etc/passwd', '../../etc/passwd'],
    ['..\\\\..\\\\windows', '..\\..\\windows'],
    ['/etc/passwd', '/etc/passwd'],
    ['\uD83D\uDCC4 Übersicht.pdf', '\uD83D\uDCC4 Übersicht.pdf'],
    ['say \\"hi\\".png', 'say "hi".png'],
    ["it's; a=b.png", "it's; a=b.png"],
    ['<script>alert(1)</script>', '<script>alert(1)</script>'],
    ['x'.repeat(300), 'x'.repeat(300)],
    ['.', '.'],
    ['..', '..'],
    ['con.pdf', 'con.pdf'],
    [' ', ' '],
  ])('named %j keeps its name for display only', async (sent, shown) => {
    const { status, body } = await post(service.url, [filePart(sent, png), CLOSING]);
    expect([status, body.originals?.[0].filename]).toEqual([200, shown]);
    const done = await service.done(body.id);
    expect(done.originals[0]).toMatchObject({ filename: shown, path: `uploads/${body.id}/originals/1.png` });
    expect(done.pages).toMatchObject([{ path: `uploads/${body.id}/pages/1-0001.1.png` }]);
    expect(await service.storedFiles()).toEqual(expect.arrayContaining([done.originals[0].path, done.pages[0].path]));
  });

  test('has the type of its content, not the declared type', async () => {
    const headers = 'Content-Disposition: form-data; name="file"; filename="a.pdf"\r\nContent-Type: application/pdf';
    const { body } = await post(service.url, [part(headers, png), CLOSING]);
    expect(body.originals[0]).toMatchObject({ media_type: 'image/png', path: `uploads/${body.id}/originals/1.png` });
  });

  test('can be a PDF with its header anywhere in the first 1024 bytes', async () => {
    const { status, body } = await service.upload([['a.pdf', Buffer.concat([Buffer.from('\r\n '), threePages])]]);
    expect([status, body.originals?.[0].media_type]).toEqual([200, 'application/pdf']);
    await service.done(body.id);
  });

  async function failure(name: string, bytes: Uint8Array, fields: Record<string, string> = {}): Promise<Json> {
    const { status, body } = await service.upload([[name, bytes]], fields);
    expect(status).toBe(200);
    const done = await service.done(body.id);
    expect(done).toMatchObject({ status: 'failed', finished_at: expect.any(String), progress: { pages_done: 0 } });
    expect(done.error).toEqual({ code: expect.any(String), message: expect.stringMatching(/./) });
    expect(done.error.message).not.toMatch(/\/|\bat |Error|undefined/);
    return done;
  }

  const jpeg = () => makeImage({ format: 'jpeg', width: 600, height: 600 });
  const cases: [string, string, string, () => Buffer | Promise<Buffer>, Record<string, string>?][] = [
    ['a truncated JPEG', 'corrupt_file', 'a.jpg', async () => (await jpeg()).subarray(0, -2_000)],
    ['a JPEG of nothing but its signature', 'corrupt_file', 'a.jpg', () => Buffer.from([0xff, 0xd8, 0xff, 0xe0])],
    [
      'a truncated PNG',
      'corrupt_file',
      'a.png',
      async () => {
        const png = await makeImage({ width: 600, height: 600 });
        return png.subarray(0, png.length / 2);
      },
    ],
    ['a truncated PDF', 'corrupt_file', 'a.pdf', () => threePages.subarray(0, threePages.length / 2)],
    ['a PDF of garbage', 'corrupt_file', 'a.pdf', () => Buffer.from(`%PDF-1.7\n${'garbage '.repeat(500)}`)],
    ['a PDF of nothing but its header', 'corrupt_file', 'a.pdf', () => Buffer.from('%PDF-1.7')],
    ['a PDF without pages', 'corrupt_file', 'a.pdf', emptyPdf],
    ['an encrypted PDF without a password', 'encrypted_pdf', 'a.pdf', () => encryptedPdf(PASSWORD)],
    [
      'an encrypted PDF with a wrong password',
      'wrong_password',
      'a.pdf',
      () => encryptedPdf(PASSWORD),
      { password: 'wrong' },
    ],
    ['a page that a PDF does not have', 'page_out_of_range', 'a.pdf', () => threePages, { pages: '99' }],
    ['a page that an image does not have', 'page_out_of_range', 'a.png', () => png, { pages: '2' }],
    ['too many pages', 'too_many_pages', 'a.pdf', () => makePdf(Array.from({ length: 6 }, () => ({ color: RED })))],
    ['too many pixels', 'too_many_pixels', 'a.png', () => makeImage({ width: 1_200, height: 1_000 })],
  ];
  test.each(cases)('fails for %s, with %s', async (_, code, name, make, ...[fields]) => {
    const done = await failure(name, await make(), fields);
    expect(done.error.code).toBe(code);
    const [original] = done.originals;
    expect([original, ...done.pages].map(({ error }: Json) => error?.code)).toContain(code);
    expect(done.pages.filter(({ status }: Json) => status !== 'failed')).toEqual([]);
    const { rows } = await service.pool.query('select attempt, status from jobs where upload_id = $1', [done.id]);
    expect(rows).toEqual([expect.objectContaining({ attempt: 1 })]); // permanent errors are not retried
  });

  test('exactly at the limits of pages and pixels is converted', async () => {
    const fivePages = await makePdf(Array.from({ length: 5 }, () => ({ color: RED })));
    const { body } = await service.upload([
      ['a.pdf', fivePages],
      ['b.png', await makeImage({ width: 1_000, height: 1_000 })],
    ]);
    expect(await service.done(body.id)).toMatchObject({
      status: 'completed',
      progress: { pages_done: 6, pages_total: 6 },
    });
  });

  test('has a limit of pages that counts only the selected pages', async () => {
    const tenPages = await makePdf(Array.from({ length: 10 }, () => ({ color: RED })));
    const { body } = await service.upload([['a.pdf', tenPages]], { pages: '2-4,10' });
    expect(await service.done(body.id)).toMatchObject({ status: 'completed', progress: { pages_done: 4 } });
  });

  test('opens with its password if it is encrypted, and no answer, log or table keeps the password', async () => {
    const { body } = await service.upload([['a.pdf', encryptedPdf(PASSWORD)]], { password: PASSWORD });
    const done = await service.done(body.id);
    expect(done).toMatchObject({ status: 'completed', progress: { pages_done: 1, pages_total: 1 } });

    const answers = [body, done, await service.get('/uploads'), await service.get(`/uploads/${body.id}/status`)];
    expect(JSON.stringify(answers)).not.toContain(PASSWORD);
    expect(JSON.stringify(answers)).not.toContain('"password"');
    expect(service.log()).toMatch(/settled/);
    expect(service.log()).not.toContain(PASSWORD);
    const { rows: tables } = await service.pool.query(
      `select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname in ('public', 'pgboss')`,
    );
    expect(tables.length).toBeGreaterThan(8);
    for (const { name } of tables) {
      const found = await service.pool.query(`select 1 from ${name} t where strpos(t::text, $1) > 0`, [PASSWORD]);
      expect([name, found.rowCount]).toEqual([name, 0]);
    }
  });

  test('is converted even if it has a password that it does not need', async () => {
    const { body } = await service.upload([['a.pdf', threePages]], { password: PASSWORD });
    expect(await service.done(body.id)).toMatchObject({ status: 'completed' });
  });

  test('leaves no work, no queue entry and no unlisted file', async () => {
    await until(async () => (await service.leftovers()).uploads === 0);
    expect(await service.leftovers()).toEqual(NOTHING_LEFT);
  });
});
