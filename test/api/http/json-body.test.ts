import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import express from 'express';
import { requireAuthorization } from '../../../api/http/authorize.ts';
import { jsonBody } from '../../../api/http/json-body.ts';
import { problems } from '../../../api/http/problem.ts';
import { createLogger } from '../../../runtime/log.ts';
import { Quota } from '../../../runtime/quota.ts';
import { until } from '../../support/service.ts';

const MAX_BYTES = 100_000;

const room = new Quota({ name: 'bytes of JSON', max: 2 * MAX_BYTES });
let server: Server;
beforeAll(async () => {
  const app = express();
  app.use(requireAuthorization(async () => ({ owner: 'alice', sees: 'alice', requester: 'alice' })));
  app.post('/', jsonBody(room, MAX_BYTES, 300), (request, response) => void response.json(request.body));
  app.use(problems(createLogger('silent', {})));
  server = createServer(app).listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterAll(() => server.close());

const port = () => (server.address() as AddressInfo).port;
async function post(body: Uint8Array | string, headers: Record<string, string> = {}) {
  const response = await fetch(`http://127.0.0.1:${port()}/`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : new Blob([body as Uint8Array<ArrayBuffer>]),
  });
  return { status: response.status, body: await response.json() };
}

test('plain and compressed bodies are read, and release their memory', async () => {
  const value = { text: 'ü'.repeat(10_000), list: [1, { a: null }] };
  const text = JSON.stringify(value);
  expect(await post(text)).toEqual({ status: 200, body: value });
  expect(await post(`\ufeff${text}`, { 'Content-Type': 'application/json; charset="UTF-8"' })).toMatchObject({
    status: 200,
    body: value,
  });
  for (const [encoding, compress] of [
    ['gzip', gzipSync],
    ['deflate', deflateSync],
    ['br', brotliCompressSync],
  ] as const) {
    expect(await post(compress(text), { 'Content-Encoding': encoding })).toEqual({ status: 200, body: value });
  }
  expect(await post('')).toEqual({ status: 200, body: {} });
  await until(async () => room.used === 0);
});

test.each([
  ['too large', `"${'x'.repeat(MAX_BYTES)}"`, {}, 413, /100000|MB/],
  ['a bomb', gzipSync(Buffer.alloc(50_000_000, ' ')), { 'Content-Encoding': 'gzip' }, 413, /MB/],
  ['no gzip', '{}', { 'Content-Encoding': 'gzip' }, 400, /cannot be read/],
  ['in another encoding', '{}', { 'Content-Encoding': 'rot13' }, 415, /gzip, deflate, br/],
  ['in UTF-16', '{}', { 'Content-Type': 'application/json; charset=utf-16' }, 415, /utf-8/],
  ['no JSON', '{"a"', {}, 400, /the body is not JSON/],
  ['a text', '"a"', {}, 400, /object or array/],
  ['sent as another media type', '{}', { 'Content-Type': 'text/plain' }, 415, /application\/json/],
])('a body that is %s is refused', async (_what, body, headers, status, detail) => {
  const answer = await post(body, headers);
  expect(answer).toMatchObject({ status, body: { detail: expect.stringMatching(detail) } });
  await until(async () => room.used === 0);
});

test('a slow body is refused, even if it arrives byte by byte, and reserves only the memory of its bytes', async () => {
  const socket = connect(port(), '127.0.0.1');
  socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n');
  const dribble = setInterval(() => socket.write('1\r\n \r\n'), 1);
  const [answer] = await once(socket, 'data');
  expect(room.used).toBeLessThanOrEqual(1_024);
  clearInterval(dribble);
  expect(String(answer)).toMatch(/^HTTP\/1.1 400 .*not complete within 0.3 s/s);
  socket.destroy();
  await until(async () => room.used === 0);
});

test('the body of a client that disconnects releases its memory', async () => {
  const socket = connect(port(), '127.0.0.1');
  socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n{');
  await until(async () => room.used > 0);
  socket.destroy();
  await until(async () => room.used === 0);
});
