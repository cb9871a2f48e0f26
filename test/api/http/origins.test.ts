import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type IncomingMessage, type OutgoingHttpHeaders, request } from 'node:http';
import { buffer } from 'node:stream/consumers';
import WebSocket from 'ws';
import { type Json, type Service, startService } from '../../support/service.ts';
import { CLOSING, filePart } from '../uploads/multipart.ts';

const FOREIGN = 'https://evil.example';
const FRIEND = 'https://app.example';
const WITH_KEY = { Authorization: 'Bearer alice' };
const BODY = Buffer.concat([filePart('a.pdf', '%PDF-'), CLOSING]);
const FORM = { 'Content-Type': 'multipart/form-data; boundary=a-boundary' };

/** Without keys, without keys under further names, with keys alone, and with keys and another origin. */
let open: Service;
let named: Service;
let keyed: Service;
let friendly: Service;
beforeAll(async () => {
  const scopes = ['uploads:read', 'uploads:write', 'jobs:*'];
  const API_KEYS = JSON.stringify([
    { name: 'alice', sha256: createHash('sha256').update('alice').digest('hex'), scopes },
  ]);
  [open, named, keyed, friendly] = await Promise.all([
    startService({ converters: 0 }),
    startService({ converters: 0, env: { AUTH: 'none', HOST: '0.0.0.0', ALLOWED_HOSTS: 'sheetmill.test' } }),
    startService({ converters: 0, env: { API_KEYS } }),
    startService({ converters: 0, env: { API_KEYS, ALLOWED_ORIGINS: FRIEND } }),
  ]);
});
afterAll(() => Promise.all([open, named, keyed, friendly].map((service) => service.stop())));

const portOf = ({ url }: Service) => new URL(url).port;
const ownOrigin = (service: Service) => `http://localhost:${portOf(service)}`;

/** Sends a request with any Host and Origin, as a browser or attacker can. */
async function send(service: Service, method: string, path: string, headers: OutgoingHttpHeaders, body?: Buffer) {
  const options = { method, path, host: '127.0.0.1', port: portOf(service), headers, agent: false };
  const sent = request({ ...options, setHost: headers.Host === undefined });
  sent.on('error', () => undefined);
  if (body !== undefined || method === 'GET' || method === 'HEAD' || method === 'OPTIONS') sent.end(body);
  else sent.flushHeaders();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  const text = (await buffer(response)).toString();
  sent.destroy();
  const isJson = /json/.test(response.headers['content-type'] ?? '');
  return { status: response.statusCode, headers: response.headers, body: (isJson ? JSON.parse(text) : text) as Json };
}

/** The status of a WebSocket handshake. */
async function handshake(service: Service, headers: Record<string, string>): Promise<number | undefined> {
  const socket = new WebSocket(`ws://127.0.0.1:${portOf(service)}/jobs/stream`, ['sheetmill'], { headers });
  socket.on('error', () => undefined);
  const status = await Promise.race([
    once(socket, 'open').then(() => 101),
    once(socket, 'unexpected-response').then(([, response]) => response.statusCode),
  ]);
  socket.terminate();
  return status;
}

describe('without keys', () => {
  test.each([
    'evil.example',
    'evil.example:3000',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    'localhost@evil.example',
    'evil.example/localhost',
    '10.0.0.1',
    'x'.repeat(15_000),
  ])('a request to the Host %s is refused and changes nothing', async (Host) => {
    for (const path of ['/', '/uploads', '/metrics', '/openapi.json', '/docs/']) {
      const { status, body } = await send(open, 'GET', path, { Host });
      expect([path, status, body.code]).toEqual([path, 403, 'forbidden']);
    }
    expect((await send(open, 'POST', '/uploads', { Host, ...FORM }, BODY)).status).toBe(403);
    expect(await handshake(open, { Host })).toBe(403);
    expect((await open.get('/uploads')).items).toEqual([]);
    // Health probes are answered under every Host.
    expect((await send(open, 'GET', '/health/live', { Host })).status).toBe(200);
  });

  test.each(['localhost', 'LOCALHOST:1234', 'localhost.', '127.0.0.1', '127.8.9.10:80', '[::1]:3000', '[0:0::1]'])(
    'a request to the loopback Host %s is served',
    async (Host) => {
      expect((await send(open, 'GET', '/uploads', { Host })).status).toBe(200);
      expect(await handshake(open, { Host })).toBe(101);
    },
  );

  test('a service on every address answers under its addresses and configured names', async () => {
    for (const Host of ['10.0.0.1:3000', '[fe80::1]', 'sheetmill.test:80', 'SHEETMILL.test']) {
      expect([Host, (await send(named, 'GET', '/uploads', { Host })).status]).toEqual([Host, 200]);
    }
    for (const Host of ['evil.example', 'sub.sheetmill.test', '10.0.0.1.example']) {
      expect([Host, (await send(named, 'GET', '/uploads', { Host })).status]).toEqual([Host, 403]);
    }
  });

  test.each<Record<string, string>>([
    { Origin: FOREIGN },
    { Origin: 'null' },
    { Origin: 'http://localhost:1' },
    { Origin: 'x'.repeat(15_000) },
    { 'Sec-Fetch-Site': 'cross-site' },
    { 'Sec-Fetch-Site': 'same-site' },
  ])('a request of a foreign page is refused before its body is read: %j', async (page) => {
    // The bodies are never sent.
    const form = { ...FORM, 'Content-Length': 1_000_000 };
    for (const [method, path] of [
      ['POST', '/uploads'],
      ['POST', '/jobs'],
      ['PUT', '/schedules/a'],
      ['PATCH', '/jobs/a'],
      ['DELETE', '/uploads/a'],
    ] as const) {
      const { status, headers, body } = await send(open, method, path, { ...form, ...page });
      expect([path, status, body.code, headers.vary]).toEqual([path, 403, 'forbidden', undefined]);
    }
    expect(await handshake(open, page)).toBe(403);
  });

  test('pages of the service and clients without a browser can make all calls', async () => {
    const Host = `localhost:${portOf(open)}`;
    const page = { Host, Origin: ownOrigin(open), 'Sec-Fetch-Site': 'same-origin' };
    // The forms contain no files, so they pass the check of the origin and are refused later.
    expect((await send(open, 'POST', '/uploads', { ...FORM, ...page }, CLOSING)).body.code).toBe('invalid_request');
    expect((await send(open, 'POST', '/uploads', FORM, CLOSING)).body.code).toBe('invalid_request');
    expect(await handshake(open, page)).toBe(101);
    // A proxy that terminates TLS keeps the Host.
    expect(await handshake(named, { Host: 'sheetmill.test', Origin: 'https://sheetmill.test' })).toBe(101);
    const link = { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate' };
    expect((await send(open, 'GET', '/', link)).status).not.toBe(403);
  });
});

describe('with keys', () => {
  test('every Host is accepted, since a key is required, and no page can read answers', async () => {
    const { status, headers } = await send(keyed, 'GET', '/uploads', {
      Host: 'evil.example',
      Origin: FOREIGN,
      ...WITH_KEY,
    });
    expect([status, headers['access-control-allow-origin'], headers.vary]).toEqual([200, undefined, undefined]);
    expect((await send(keyed, 'POST', '/uploads', { Origin: FOREIGN, ...FORM }, BODY)).status).toBe(401);
    const preflight = { Origin: FOREIGN, 'Access-Control-Request-Method': 'POST' };
    expect((await send(keyed, 'OPTIONS', '/uploads', preflight)).status).toBe(401);
  });

  test('pages of an allowed origin can preflight, send and read', async () => {
    const page = { Origin: FRIEND, 'Sec-Fetch-Site': 'cross-site' };
    const preflight = await send(friendly, 'OPTIONS', '/uploads', { ...page, 'Access-Control-Request-Method': 'POST' });
    expect(preflight).toMatchObject({
      status: 204,
      headers: { 'access-control-allow-origin': FRIEND, vary: 'Origin' },
    });
    const { headers } = preflight;
    for (const name of ['authorization', 'idempotency-key', 'prefer', 'content-type']) {
      expect(headers['access-control-allow-headers']?.toLowerCase().split(', ')).toContain(name);
    }
    for (const name of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
      expect(headers['access-control-allow-methods']?.split(', ')).toContain(name);
    }
    expect(headers['access-control-allow-credentials']).toBeUndefined();

    const sent = await send(friendly, 'POST', '/uploads', { ...page, ...WITH_KEY, ...FORM }, CLOSING);
    expect(sent).toMatchObject({ status: 400, headers: { 'access-control-allow-origin': FRIEND } });
    for (const name of ['location', 'etag', 'retry-after']) {
      expect(sent.headers['access-control-expose-headers']?.toLowerCase().split(', ')).toContain(name);
    }
    // A page without a key can read the error.
    const refused = await send(friendly, 'GET', '/uploads', page);
    expect(refused).toMatchObject({ status: 401, headers: { 'access-control-allow-origin': FRIEND } });
    expect(await handshake(friendly, { ...page, ...WITH_KEY })).toBe(101);
  });

  test('pages of other origins cannot change anything if ALLOWED_ORIGINS is set', async () => {
    for (const Origin of [FOREIGN, `${FRIEND}.evil.example`, `${FRIEND}:444`, 'http://app.example', 'null']) {
      const { status, headers } = await send(friendly, 'GET', '/uploads', { Origin, ...WITH_KEY });
      expect([status, headers['access-control-allow-origin'], headers.vary]).toEqual([200, undefined, 'Origin']);
      expect((await send(friendly, 'POST', '/uploads', { Origin, ...WITH_KEY, ...FORM }, BODY)).status).toBe(403);
      expect(await handshake(friendly, { Origin, ...WITH_KEY })).toBe(403);
    }
  });
});
