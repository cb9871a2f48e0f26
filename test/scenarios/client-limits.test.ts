import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import WebSocket from 'ws';
import { expectProblem } from '../api/http/problems.ts';
import { answerTo, CLOSING, filePart, openPost } from '../api/uploads/multipart.ts';
import { makeImage } from '../support/files.ts';
import { expectNothingLeft, type Service, startService, until } from '../support/service.ts';

const MAX_PER_MINUTE = 60;
const NAMES = ['alice', 'bob', 'carol', 'dave'];

/** One service with keys, one without. */
let service: Service;
let open: Service;
beforeAll(async () => {
  const keys = NAMES.map((name) => ({
    name,
    sha256: createHash('sha256').update(name).digest('hex'),
    scopes: ['uploads:read', 'uploads:write', 'jobs:*'],
  }));
  const env = {
    API_KEYS: JSON.stringify(keys),
    RATE_LIMIT_PER_MINUTE: String(MAX_PER_MINUTE),
    MAX_CONCURRENT_UPLOADS: '2',
  };
  [service, open] = await Promise.all([
    startService({ env }),
    startService({ env: { RATE_LIMIT_PER_MINUTE: '5', MAX_CONCURRENT_UPLOADS: '1' } }),
  ]);
});
afterEach(() => Promise.all([expectNothingLeft(service), expectNothingLeft(open)]));
afterAll(() => Promise.all([service.stop(), open.stop()]));

const as = (name: string) => ({ Authorization: `Bearer ${name}` });
const get = (name: string, route = '/jobs') => service.send('GET', route, undefined, as(name));

describe('the rate limit', () => {
  test('counts requests for each owner, and refuses more before their body is read', async () => {
    for (let left = MAX_PER_MINUTE - 1; left >= 0; left--) {
      const { status, headers } = await get('alice');
      expect([status, headers.get('ratelimit-policy')]).toEqual([200, `"requests";q=${MAX_PER_MINUTE};w=60`]);
      expect(headers.get('ratelimit')).toMatch(new RegExp(`^"requests";r=${left};t=([1-9]|[1-5]\\d|60)$`));
    }
    const answer = await get('alice');
    expectProblem(answer, 429, 'too_many_requests', /60 requests/);
    expect(answer.headers.get('ratelimit')).toMatch(/^"requests";r=0;t=\d+$/);
    expect(answer.headers.get('retry-after')).toMatch(/^([1-9]|[1-5]\d|60)$/);
    expect(answer.body.retry_after_seconds).toBe(Number(answer.headers.get('retry-after')));

    const opened = openPost(service.url, { 'Content-Length': 1_000_000, ...as('alice') });
    opened.flushHeaders();
    expect(await answerTo(opened)).toMatchObject({ status: 429, body: { code: 'too_many_requests' } });
    opened.destroy();
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream`, { headers: as('alice') });
    const [, response] = await once(socket, 'unexpected-response');
    expect([response.statusCode, Number(response.headers['retry-after'])]).toEqual([429, expect.any(Number)]);
    response.destroy();

    expect((await get('bob')).status).toBe(200);
    const health = await get('alice', '/health/live');
    expect([health.status, health.headers.get('ratelimit')]).toEqual([200, null]);
  });

  test('does not count requests from this machine without keys', async () => {
    for (let request = 0; request < 20; request++) {
      const { status, headers } = await open.send('GET', '/jobs');
      expect([status, headers.get('ratelimit')]).toEqual([200, null]);
    }
  });
});

describe('the limit of concurrent uploads', () => {
  /** Starts an upload that has sent enough for its type to be detected. */
  async function begin(at: Service, name: string) {
    const before = (await at.storedFiles()).length;
    const opened = openPost(at.url, { 'Transfer-Encoding': 'chunked', ...as(name) });
    opened.write(filePart('a.pdf', `%PDF-${' '.repeat(1_024)}`).subarray(0, -2));
    await until(async () => (await at.storedFiles()).length > before);
    return opened;
  }

  test('refuses further uploads of an owner before their body is read', async () => {
    const slow = [await begin(service, 'carol'), await begin(service, 'carol')];
    const third = openPost(service.url, { 'Content-Length': 1_000_000, ...as('carol') });
    third.flushHeaders();
    const { status, headers, body } = await answerTo(third);
    expect([status, headers['retry-after'], body.code]).toEqual([429, '5', 'too_many_requests']);
    third.destroy();
    const other = await begin(service, 'dave');
    // An aborted upload makes room.
    slow[0]?.destroy();
    await until(async () => (await service.storedFiles()).length === 2);
    const next = await begin(service, 'carol');
    for (const upload of [slow[1], other, next]) upload?.destroy();
    await until(async () => (await service.storedFiles()).length === 0);
  });

  test('does not count uploads from this machine without keys', async () => {
    const uploads = [await begin(open, 'a'), await begin(open, 'a'), await begin(open, 'a')];
    for (const upload of uploads) upload.destroy();
    await until(async () => (await open.storedFiles()).length === 0);
  });
});

/** A raw connection: its answer, and how long it was open. */
function raw(url: string, ...lines: string[]) {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const began = performance.now();
  socket.on('error', () => undefined);
  socket.write(lines.map((line) => `${line}\r\n`).join(''));
  const answer = text(socket).catch(() => '');
  const closed = once(socket, 'close').then(() => (performance.now() - began) / 1000);
  return { socket, answer, closed };
}

test('slow clients are disconnected, while other clients and a slow upload are served', async () => {
  const dribbling = Array.from({ length: 50 }, () => raw(open.url, 'GET /jobs HTTP/1.1', 'Host: localhost'));
  const silent = raw(open.url);
  // It is refused and continues to send: it reads the answer, and is disconnected soon after.
  const stubborn = raw(
    service.url,
    'POST /uploads HTTP/1.1',
    'Host: localhost',
    'Content-Length: 1000000000',
    'Content-Type: multipart/form-data; boundary=x',
    '',
    '',
  );
  const sending = setInterval(() => {
    for (const { socket } of [...dribbling, stubborn]) if (socket.writable) socket.write('X: y\r\n');
  }, 500);
  try {
    const png = await makeImage();
    const upload = openPost(open.url, { 'Transfer-Encoding': 'chunked' });
    const answer = answerTo(upload);
    const body = Buffer.concat([filePart('a.png', png), CLOSING]);
    // The upload takes longer than the timeout of headers.
    for (let part = 0; part < 13; part++) {
      upload.write(body.subarray(part * 10, part * 10 + 10));
      await delay(1_000);
      expect((await open.send('GET', '/jobs')).status).toBe(200);
    }
    upload.end(body.subarray(130));
    const { status, body: document } = await answer;
    expect(status).toBe(200);
    for (const { closed } of [...dribbling, silent]) {
      const seconds = await closed;
      expect(seconds).toBeGreaterThan(9);
      expect(seconds).toBeLessThan(25);
    }
    expect(await dribbling[0]?.answer).toMatch(/^HTTP\/1.1 408 /);
    expect(await stubborn.answer).toMatch(/^HTTP\/1.1 401 /);
    expect(await stubborn.closed).toBeLessThan(15);
    expect((await open.done(document.id)).status).toBe('completed');
  } finally {
    clearInterval(sending);
  }
});

test('a client without a key reads the answer before it has sent a large body', async () => {
  for (const connection of ['close', 'keep-alive']) {
    const opened = openPost(service.url, { 'Content-Length': 50_000_000, Connection: connection });
    opened.write(Buffer.alloc(20_000_000));
    expect((await answerTo(opened)).status).toBe(401);
    opened.destroy();
  }
});

test('large headers are refused', async () => {
  const { answer } = raw(open.url, 'GET /jobs HTTP/1.1', 'Host: localhost', `X: ${'y'.repeat(20_000)}`, '', '');
  expect(await answer).toMatch(/^HTTP\/1.1 431 /);
});

test('large or deeply nested JSON is refused', async () => {
  const deep = (depth: number) => `{"cron": "* * * * *", "job": ${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`;
  const large = { status: 'failed', type: 'x'.repeat(2 ** 20) };
  expectProblem(await open.post('/jobs/retry', large), 413, 'file_too_large');
  for (const depth of [120, 100_000]) {
    expectProblem(await open.send('PUT', '/schedules/deep', deep(depth)), 400, 'invalid_request', /deep/);
    expectProblem(await open.post('/jobs', deep(depth)), 400, 'invalid_request', /deep/);
  }
});

test('every answer forbids inline scripts, frames and type sniffing', async () => {
  for (const route of ['/jobs', '/nothing', '/health/live']) {
    const { headers } = await open.send('GET', route);
    expect(headers.get('content-security-policy')).toMatch(/default-src 'none';.*script-src 'self';/);
    expect(headers.get('content-security-policy')).not.toMatch(/unsafe|https:/);
    expect(headers.get('x-frame-options')).toBe('DENY');
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('x-powered-by')).toBeNull();
  }
});

// The last test, since the address has no requests left afterwards.
test('requests with a wrong key count for the address, so that keys cannot be guessed', async () => {
  let guesses = 0;
  let answer = await get('guess');
  // Twice the maximum, since a new minute can begin.
  while (answer.status === 401 && ++guesses < 2 * MAX_PER_MINUTE) answer = await get(`guess-${guesses}`);
  expectProblem(answer, 429, 'too_many_requests');
  expect((await get('bob')).status).toBe(200);
});
