import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expectNothingLeft, type Service, startService } from '../../support/service.ts';
import { BOUNDARY, CLOSING, filePart, part } from '../uploads/multipart.ts';

const MB = 2 ** 20;

let service: Service;
beforeAll(async () => {
  service = await startService({ converters: 0, env: { MAX_UPLOAD_MB: '2' } });
});
afterAll(() => service.stop());

const chunk = (bytes: Buffer) =>
  Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);

/** Sends the start of a chunked body, and then more of it until the connection is closed. */
async function sendEndlessly(line: string, type: string, start: Buffer, more: Buffer) {
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(`${line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\nTransfer-Encoding: chunked\r\n\r\n`);
  const answered = once(socket, 'data').then(([answer]) => ({
    status: Number(String(answer).split(' ')[1]),
    bytesSent: socket.bytesWritten,
    at: performance.now(),
  }));
  if (start.length > 0) socket.write(chunk(start));
  const closed = write(socket, chunk(more));
  const { status, bytesSent, at } = await answered;
  await closed;
  return { status, bytesSent, lingeredMs: performance.now() - at };
}

async function write(socket: Socket, bytes: Buffer): Promise<void> {
  const closed = new Promise((resolve) => socket.once('close', resolve));
  while (!socket.closed) {
    if (!socket.write(bytes)) await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), closed]);
  }
}

const FORM = `multipart/form-data; boundary=${BOUNDARY}`;
const HEAD = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="dpi"`;
const PDF = filePart('a.pdf', `%PDF-1.7${' '.repeat(5_000)}`);
const ZEROS = Buffer.alloc(64 * 1024);
const ENDLESS: [what: string, status: number, line: string, type: string, start: Buffer, more: Buffer][] = [
  ['before the first part', 400, 'POST /uploads', FORM, Buffer.alloc(0), ZEROS],
  ['with empty lines', 400, 'POST /uploads', FORM, Buffer.alloc(0), Buffer.from('\r\n'.repeat(8_192))],
  ['in the head of a part', 400, 'POST /uploads', FORM, Buffer.from(`${HEAD}\r\nX: `), ZEROS],
  ['with heads', 400, 'POST /uploads', FORM, Buffer.from(HEAD), Buffer.from('\r\nX: y'.repeat(1_000))],
  ['in a text field', 400, 'POST /uploads', FORM, Buffer.from(`${HEAD}\r\n\r\n`), ZEROS],
  ['in a part without a name', 400, 'POST /uploads', FORM, Buffer.from(`--${BOUNDARY}\r\nX: y\r\n\r\n`), ZEROS],
  [
    'with parts',
    400,
    'POST /uploads',
    FORM,
    Buffer.alloc(0),
    Buffer.concat(Array(100).fill(part(HEAD.slice(14), '1'))),
  ],
  ['with files', 413, 'POST /uploads', FORM, Buffer.alloc(0), PDF],
  ['in a file', 413, 'POST /uploads', FORM, PDF.subarray(0, -2), ZEROS],
  ['after the last part', 413, 'POST /uploads', FORM, Buffer.concat([PDF, CLOSING]), ZEROS],
  ['without a boundary', 400, 'POST /uploads', 'multipart/form-data', Buffer.alloc(0), ZEROS],
  ['with another type', 415, 'POST /uploads', 'text/plain', Buffer.alloc(0), ZEROS],
  ['where none is expected', 200, 'GET /jobs', 'text/plain', Buffer.alloc(0), ZEROS],
];

test('an endless body is answered after a limited part of it, and its connection is closed', async () => {
  const answers = await Promise.all(
    ENDLESS.map(async ([what, , ...sent]) => [what, await sendEndlessly(...sent)] as const),
  );
  expect(answers.map(([what, { status }]) => [what, status])).toEqual(ENDLESS.map(([what, status]) => [what, status]));
  for (const [what, { bytesSent, lingeredMs }] of answers) {
    // The limit includes the buffers of two sockets.
    expect([what, bytesSent < 32 * MB, lingeredMs < 15_000]).toEqual([what, true, true]);
  }
  const { items } = await service.get('/uploads');
  for (const { id } of items) await service.delete(`/uploads/${id}`);
  await expectNothingLeft(service);
});
