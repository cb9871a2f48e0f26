import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { encryptedPdf, makeImage, makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService } from '../../support/service.ts';
import { BOUNDARY, CLOSING, filePart, part } from './multipart.ts';

const LATIN_1_PASSWORD = 'Schlüssel';

let service: Service;
let pdf: Buffer;
let png: Buffer;
beforeAll(async () => {
  service = await startService();
  pdf = await makePdf([{ color: RED }]);
  png = await makeImage();
});
afterAll(async () => {
  await expectNothingLeft(service);
  await service.stop();
});

/** Sends a body in chunks of this size, and gives the status and the parsed body of the answer. */
async function send(parts: Buffer[], { type = `multipart/form-data; boundary=${BOUNDARY}`, pieces = 65_536 } = {}) {
  const { hostname, port } = new URL(service.url);
  const socket = connect(Number(port), hostname).setNoDelay();
  const body = Buffer.concat(parts);
  const head = ['POST /uploads HTTP/1.1', 'Host: localhost', 'Connection: close', `Content-Type: ${type}`];
  socket.write(`${head.join('\r\n')}\r\nTransfer-Encoding: chunked\r\n\r\n`);
  for (let at = 0; at < body.length; at += pieces) {
    const piece = body.subarray(at, at + pieces);
    socket.write(Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n')]));
  }
  socket.write('0\r\n\r\n');
  const [head_ = '', ...rest] = (await text(socket)).split('\r\n\r\n');
  return { status: Number(head_.split(' ')[1]), body: JSON.parse(rest.join('\r\n\r\n')) as Json };
}

const latin1 = (text: string) => Buffer.from(text, 'latin1');
/** A part whose head is these bytes. */
const rawPart = (head: Buffer, content: Uint8Array) =>
  Buffer.concat([latin1(`--${BOUNDARY}\r\n`), head, latin1('\r\n\r\n'), content, latin1('\r\n')]);
const field = (name: string, value: string | Buffer, more = '') =>
  part(`Content-Disposition: form-data; name="${name}"${more}`, value);

describe('a part without a filename', () => {
  test.each([
    ['without a Content-Type', ''],
    ['that is a PDF', '\r\nContent-Type: application/pdf'],
    ['with the type application/octet-stream', '\r\nContent-Type: application/octet-stream'],
    ['with the type text/plain', '\r\nContent-Type: text/plain; charset=utf-8'],
    ['with a length', '\r\nContent-Type: application/pdf\r\nContent-Length: 1'],
  ])('is a file in the field file: %s', async (_, more) => {
    const { status, body } = await send([field('file', pdf, more), CLOSING]);
    expect([status, body.originals]).toMatchObject([200, [{ filename: null, bytes: pdf.length }]]);
    expect(await service.done(body.id)).toMatchObject({ status: 'completed', pages: [{ page: 1 }] });
  });

  test('can have any size, in chunks of any size', async () => {
    // Parsers of multipart bodies fail at line breaks and parts of boundaries.
    const tail = Buffer.from(`\r\n--${BOUNDARY.slice(0, -1)}\r\n\r\n--\r\n`.repeat(40_000));
    const large = Buffer.concat([pdf, tail]);
    for (const [content, pieces] of [[large, 65_536] as const, [pdf, 1] as const]) {
      const { status, body } = await send([field('file', content), field('dpi', '72'), CLOSING], { pieces });
      expect(status).toBe(200);
      expect((await service.bytes(body.originals[0].url)).equals(content)).toBe(true);
      await service.done(body.id);
    }
  });

  test('keeps its place among other files', async () => {
    const { body } = await send([
      field('file', pdf),
      filePart('b.png', png),
      field('file', png),
      filePart('d.pdf', pdf),
      CLOSING,
    ]);
    expect(body.originals.map(({ filename, media_type }: Json) => [filename, media_type])).toEqual([
      [null, 'application/pdf'],
      ['b.png', 'image/png'],
      [null, 'image/png'],
      ['d.pdf', 'application/pdf'],
    ]);
    await service.done(body.id);
  });

  test('has the type of its content', async () => {
    const { status, body } = await send([field('file', 'text'), CLOSING]);
    expect([status, body.detail]).toEqual([415, 'file 1 is neither PDF, PNG nor JPEG by its content']);
  });

  test('is a text field in another field', async () => {
    const { status, body } = await send([field('document', Buffer.alloc(100_000, pdf)), CLOSING]);
    expect([status, body.detail]).toEqual([
      400,
      'document: must have at most 2048 bytes; send files in the field "file"',
    ]);
  });
});

test('an empty file input is ignored', async () => {
  const empty = part(
    'Content-Disposition: form-data; name="file"; filename=""\r\nContent-Type: application/octet-stream',
    '',
  );
  for (const pieces of [65_536, 1]) {
    const { status, body } = await send([empty, filePart('a.png', png), empty, CLOSING], { pieces });
    expect([status, body.originals]).toMatchObject([200, [{ original: 1, filename: 'a.png' }]]);
    await service.done(body.id);
  }
  const { status, body } = await send([empty, CLOSING]);
  expect([status, body.detail]).toEqual([400, 'file: missing; send at least one file in the field "file"']);
});

test('empty optional fields count as absent', async () => {
  const names = ['dpi', 'pages', 'password', 'priority', 'notify_url', 'expires_at', 'engine'];
  const { status, body } = await send([...names.map((name) => field(name, '')), filePart('a.pdf', pdf), CLOSING]);
  expect([status, body]).toMatchObject([200, { priority: 'normal', notify_url: null, expires_at: null }]);
  expect(await service.done(body.id)).toMatchObject({ status: 'completed', pages: [{ dpi: 200 }] });
});

test('text fields are text for any Content-Type', async () => {
  for (const type of ['application/octet-stream', 'application/json', 'text/plain; charset=shift_jis']) {
    const dpi = field('dpi', '72', `\r\nContent-Type: ${type}`);
    const { status, body } = await send([dpi, filePart('a.pdf', pdf), CLOSING]);
    expect(status).toBe(200);
    expect((await service.done(body.id)).pages).toMatchObject([{ dpi: 72 }]);
  }
});

test('a password in Latin-1 or UTF-8 opens the PDF', async () => {
  for (const encoding of ['latin1', 'utf8'] as const) {
    const password = field('password', Buffer.from(LATIN_1_PASSWORD, encoding));
    const { body } = await send([password, filePart('a.pdf', encryptedPdf(LATIN_1_PASSWORD)), CLOSING]);
    expect(await service.done(body.id)).toMatchObject({ status: 'completed' });
  }
});

describe('NUL is refused', () => {
  test.each([
    ['as it is', 'filename="a\0b.pdf"'],
    ['percent-encoded', "filename*=UTF-8''a%00b.pdf"],
  ])('in a filename %s', async (_, filename) => {
    const { status, body } = await send([field('file', pdf, `; ${filename}`), CLOSING]);
    expect([status, body.detail]).toEqual([400, 'file: the filename of file 1 must not contain NUL']);
  });

  test.each([
    '/uploads?search=abc%00',
    '/uploads?cursor=%00',
    '/uploads?status=%00',
    '/uploads?a%00b=1',
    '/jobs?type=%00',
    '/jobs?cursor=%00',
    `/jobs?cursor=${Buffer.from('{"createdAt": 1, "id": "a\\u0000"}').toString('base64url')}`,
    `/jobs?cursor=${Buffer.from(`{"createdAt": ${Number.MIN_SAFE_INTEGER}, "id": "a"}`).toString('base64url')}`,
    '/jobs?created_after=%00',
    '/jobs/%00',
    '/jobs/a/logs?cursor=%00',
    '/uploads/%00',
  ])('in the address %s', async (address) => {
    const { status } = await service.send('GET', address);
    expect(status).toBeLessThan(500);
  });

  test.each([
    ['a job', 'POST', '/jobs', { type: 'noop', payload: {} }, 'payload', { x: 'a\0' }],
    ['a schedule', 'PUT', '/schedules/s', { cron: '@daily', job: {} }, 'cron', '0 0 * * *\0'],
    ['a time zone', 'PUT', '/schedules/s', { cron: '0 0 * * *', job: { type: 'checksum' } }, 'timezone', 'UTC\0'],
    [
      'the job of a schedule',
      'PUT',
      '/schedules/s',
      { cron: '0 0 * * *' },
      'job',
      { type: 'checksum', payload: { upload_id: 'x', extra: '\ud800' } },
    ],
  ])('in %s', async (_, method, address, body, name, value) => {
    const answer = await service.send(method, address, { ...body, [name]: value });
    expect([answer.status, answer.body.detail]).toEqual([400, expect.stringContaining(name)]);
  });

  test('in the name of a schedule', async () => {
    const answer = await service.put('/schedules/a%00b', { cron: '0 0 * * *', job: { type: 'checksum' } });
    expect([answer.status, answer.body.detail]).toEqual([400, expect.stringMatching(/^name: /)]);
    expect((await service.delete('/schedules/a%00b')).status).toBe(404);
  });
});

describe('a filename', () => {
  const heads: [what: string, head: Buffer, shown: string][] = [
    ['in Latin-1', latin1('filename="Übergröße.pdf"'), 'Übergröße.pdf'],
    ['in windows-1252', Buffer.from([...latin1('filename="'), 0x80, 0x97, 0x8a, ...latin1('.pdf"')]), '€—Š.pdf'],
    ['in UTF-8', Buffer.from('filename="Übergröße – 見積.pdf"'), 'Übergröße – 見積.pdf'],
    ['in UTF-8, truncated inside a character', Buffer.from([...latin1('filename="'), 0xc3, 0x22]), 'Ã'],
    [
      'in Shift JIS',
      Buffer.from([...latin1('filename="'), 0x8c, 0xa9, 0x90, 0xcf, ...latin1('.pdf"')]),
      'Œ©\u0090Ï.pdf',
    ],
    ['without quotes', latin1('filename=Übergröße 1.pdf'), 'Übergröße 1.pdf'],
    ['in the format of RFC 5987', latin1("filename*=UTF-8''%C3%9C%E8%A6%8B.pdf"), 'Ü見.pdf'],
    ['in both formats', latin1(`filename="old.pdf"; filename*=UTF-8''%C3%9C.pdf`), 'Ü.pdf'],
    ['in declared Latin-1', latin1("filename*=ISO-8859-1'de'%DC.pdf"), 'Ü.pdf'],
    ['in declared Shift JIS', latin1("filename*=Shift_JIS''%8c%a9%90%cf.pdf"), '見積.pdf'],
    ['that is not in the declared encoding', latin1("filename*=UTF-8''%DC.pdf"), 'Ü.pdf'],
    ['in an unknown encoding', latin1("filename*=klingon''%C3%9C.pdf"), 'Ü.pdf'],
    ['with quotes as browsers write them', latin1('filename="say %22hi%22 100%.pdf"'), 'say "hi" 100%.pdf'],
    ['on a folded line', latin1('\r\n filename="a.pdf"'), 'a.pdf'],
    ['with a semicolon', latin1('filename="a; name=b.pdf"'), 'a; name=b.pdf'],
  ];
  test.each(heads)('%s', async (_, filename, shown) => {
    const head = Buffer.concat([latin1('content-disposition: FORM-DATA; Name="file"; '), filename]);
    const { status, body } = await send([rawPart(head, png), CLOSING]);
    expect([status, body.originals?.[0].filename]).toEqual([200, shown]);
    expect((await service.get(`/uploads/${body.id}`)).originals[0].filename).toBe(shown);
    await service.done(body.id);
  });

  test('is truncated to 1000 characters without splitting one', async () => {
    const { body } = await send([filePart(`x${'\u{1F4C4}'.repeat(600)}`, png), CLOSING]);
    expect((await service.get(`/uploads/${body.id}`)).originals[0].filename).toBe(`x${'\u{1F4C4}'.repeat(499)}`);
    await service.done(body.id);
  });
});

test('a boundary can be quoted, contain characters that need quotes, and follow other parameters', async () => {
  for (const [boundary, type] of [
    ['a b:c', 'multipart/form-data; charset=utf-8; Boundary="a b:c"'],
    ['----=_Part_1_2.3', 'multipart/form-data; boundary="----=_Part_1_2.3"'],
  ] as const) {
    const body = Buffer.concat([field('file', png), CLOSING])
      .toString('latin1')
      .replaceAll(BOUNDARY, boundary);
    const { status, body: answer } = await send([latin1(body)], { type });
    expect([status, answer.originals]).toMatchObject([200, [{ bytes: png.length }]]);
    await service.done(answer.id);
  }
});
