import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createApp } from '../../api/app.ts';
import { createEventHub } from '../../api/events/event-hub.ts';
import { attachStream } from '../../api/events/stream.ts';
import { createAuthorize } from '../../api/http/authorize.ts';
import { LongPoll } from '../../api/http/long-poll.ts';
import { Origins } from '../../api/http/origins.ts';
import { openStatusCache } from '../../api/http/status-cache.ts';
import { createGuard } from '../../api/webhooks/ssrf-guard.ts';
import { conversionDomain } from '../../conversion/domain.ts';
import { loadTasks } from '../../conversion/registry.ts';
import { openDatabase } from '../../db/client.ts';
import { openQueues } from '../../db/queues.ts';
import { nextRun } from '../../jobs/cron.ts';
import { registerDomain } from '../../jobs/domain.ts';
import { registerJobTypes } from '../../jobs/register-types.ts';
import { parseConfig } from '../../runtime/config.ts';
import { createLogger } from '../../runtime/log.ts';
import { openStore } from '../../store/open.ts';
import { CLOSING, filePart, part } from '../api/uploads/multipart.ts';
import { cloneDatabase } from '../support/database.ts';

/** The time of the event loop that the worst text in any header or parameter costs beyond a harmless one. */
const MAX_EXTRA_MS = 5;
const HARMLESS_TRIES = 6;
const MAX_TRIES = 30;
/** Node refuses more than 16 KB of headers. */
const LENGTH = 15_000;
const KEY = 'a-key';

/** Texts that make expressions backtrack: runs of separators, blanks and quotes, which end in what does not fit. */
const PATTERNS = [
  ...[' ', '\t', ',', ';', '=', '"', '\\', '-', '.', '/', '0', 'a', ':', '%', '(', '*', '+', '\xe9'],
  ...[
    ', ',
    ' ;',
    '; ;',
    'a ',
    'a=',
    '="',
    '\\"',
    ';a=b',
    ' ; a = "b"',
    '0-',
    '1,',
    '1-1,',
    'W/"a",',
    '../',
    'a.',
    '%2e',
  ],
  ...['\xf0\x9f\x98\x80', '[a]', '*/', '@-', 'a-'],
];
const WORST = PATTERNS.map((pattern) => `${pattern.repeat(LENGTH).slice(0, LENGTH - 1)}!`);

let server: Server;
let stop: () => Promise<void>;
let uploadId: string;
beforeAll(async () => {
  const database = await cloneDatabase();
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-worst-'));
  const sha256 = createHash('sha256').update(KEY).digest('hex');
  const config = parseConfig({
    DATA_DIR: folder,
    MIN_FREE_MB: '0',
    RATE_LIMIT_PER_MINUTE: '1000000',
    API_KEYS: JSON.stringify([{ name: 'alice', sha256, scopes: ['admin'] }]),
    ALLOWED_HOSTS: 'sheetmill.test',
    ALLOWED_ORIGINS: 'https://app.example',
  });
  const log = createLogger('silent', {});
  const tasks = await loadTasks(undefined);
  const { db, close } = await openDatabase(database.url, { name: 'worst', log });
  const queues = await openQueues(db, { supervise: false, log });
  registerDomain(conversionDomain);
  await registerJobTypes(db, tasks.values());
  const hub = createEventHub({ db, heavyDb: db, databaseUrl: database.url, log });
  const longPoll = new LongPoll(hub);
  const cache = await openStatusCache(undefined, log);
  const origins = new Origins(config);
  const authorize = createAuthorize(config);
  const store = await openStore(config);
  const guard = createGuard(config);
  const read = <T>(query: (from: typeof db) => Promise<T>) => query(db);
  server = createServer(
    createApp({ db, heavyDb: db, read, queues, store, tasks, guard, config, origins, authorize, log, cache, longPoll }),
  );
  const stream = attachStream(server, hub, { origins, authorize }, log);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stop = async () => {
    server.closeAllConnections();
    server.close();
    longPoll.close();
    await Promise.all([stream.close(), hub.close()]);
    await queues.close();
    await close();
    await database.drop();
    await rm(folder, { recursive: true });
  };
  const answer = await exchange(postOf(Buffer.concat([filePart('a.pdf', '%PDF-1.7'), CLOSING])));
  uploadId = /"id":"([^"]+)"/.exec(answer)?.[1] ?? '';
  expect(uploadId).not.toBe('');
});
afterAll(() => stop());

/** A request as it stands on the wire. Node replaces what is no Latin-1. */
function requestOf(line: string, headers: Record<string, string>, body: Buffer = Buffer.alloc(0)): Buffer {
  const all: Record<string, string> = {
    Host: 'sheetmill.test',
    Authorization: `Bearer ${KEY}`,
    'Content-Length': String(body.length),
    Connection: 'close',
    ...headers,
  };
  const head = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from(`${line} HTTP/1.1\r\n${head.join('')}\r\n`, 'latin1'), body]);
}

function postOf(body: Buffer, headers: Record<string, string> = {}): Buffer {
  return requestOf('POST /uploads', { 'Content-Type': 'multipart/form-data; boundary=a-boundary', ...headers }, body);
}

/** Sends a request and gives the first bytes of its answer. */
async function exchange(sent: Buffer): Promise<string> {
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  socket.write(sent);
  const [answer] = await once(socket.setEncoding('latin1'), 'data');
  socket.destroy();
  expect(answer).toMatch(/^HTTP\/1.1 (?!500)/);
  return answer;
}

/** How long the event loop was busy. */
async function costOf(sent: Buffer): Promise<number> {
  const before = performance.eventLoopUtilization();
  await exchange(sent);
  return performance.eventLoopUtilization(before).active;
}

/** A busy machine adds to a measurement and never takes away: a slow one is repeated, later and later. */
async function leastCost(sent: Buffer, enough: number, maxTries: number): Promise<number> {
  let least = await costOf(sent);
  for (let tries = 1; tries < maxTries && least > enough; tries++) {
    if (tries > HARMLESS_TRIES) await delay(tries * 5);
    least = Math.min(least, await costOf(sent));
  }
  return least;
}

/** Sends each of the worst texts where `build` puts it, and compares with a harmless one. */
async function expectCheap(build: (text: string) => Buffer, texts: string[] = WORST): Promise<void> {
  const harmless = await leastCost(build('a'), 0, HARMLESS_TRIES);
  for (const text of texts) {
    const extra = (await leastCost(build(text), harmless + MAX_EXTRA_MS, MAX_TRIES)) - harmless;
    if (extra > MAX_EXTRA_MS) throw new Error(`${JSON.stringify(text.slice(0, 12))}... costs ${extra} ms`);
  }
}

/** Where in the header the text stands; headers of which all requests are read stand alone. */
const HEADERS: [name: string, prefix: string][] = [
  ['Authorization', ''],
  ['Authorization', 'Bearer '],
  ['Authorization', 'Bearer a'],
  ['Host', ''],
  ['Host', 'sheetmill.test'],
  ['Origin', ''],
  ['Origin', 'https://a'],
  ['Sec-Fetch-Site', ''],
  ['Accept', ''],
  ['Accept-Encoding', ''],
  ['Content-Type', ''],
  ['Cookie', ''],
  ['X-Forwarded-For', ''],
  ['traceparent', ''],
  ['tracestate', ''],
  ['Prefer', ''],
  ['Prefer', 'wait=0;'],
  ['Prefer', 'wait=0,a'],
  ['Prefer', 'a="'],
  ['Cache-Control', ''],
  ['If-None-Match', ''],
  ['If-Modified-Since', ''],
];

describe('a text of 15 KB', () => {
  test.each(HEADERS)('costs little CPU time in the header %s, after "%s"', async (name, prefix) => {
    await expectCheap((text) =>
      requestOf(`GET /uploads/${uploadId}/status`, { [name]: prefix + text.slice(prefix.length) }),
    );
  });

  test.each([
    ['Range', ''],
    ['Range', 'bytes='],
    ['Range', 'bytes=0-'],
    ['If-Range', ''],
    ['If-Match', ''],
    ['If-None-Match', '"a"'],
    ['If-None-Match', 'W/'],
  ])('costs little CPU time in the header %s of a download, after "%s"', async (name, prefix) => {
    await expectCheap((text) =>
      requestOf(`GET /uploads/${uploadId}/originals/1`, { [name]: prefix + text.slice(prefix.length) }),
    );
  });

  test.each([
    ['Sec-WebSocket-Protocol', ''],
    ['Sec-WebSocket-Protocol', 'bearer.'],
    ['Sec-WebSocket-Protocol', 'sheetmill,a'],
    ['Sec-WebSocket-Extensions', ''],
    ['Sec-WebSocket-Extensions', 'permessage-deflate; a='],
    ['Sec-WebSocket-Key', ''],
    ['Upgrade', ''],
    ['Connection', 'Upgrade,'],
  ])('costs little CPU time in the header %s of the stream, after "%s"', async (name, prefix) => {
    const handshake = {
      Upgrade: 'websocket',
      Connection: 'Upgrade',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
    };
    for (const auth of [{}, { Authorization: '' }]) {
      await expectCheap((text) =>
        requestOf('GET /jobs/stream', { ...handshake, ...auth, [name]: prefix + text.slice(prefix.length) }),
      );
    }
  });

  test.each([
    ['Idempotency-Key', ''],
    ['Content-Type', 'multipart/form-data'],
    ['Content-Type', 'multipart/form-data; boundary='],
    ['Content-Type', 'multipart/form-data; boundary="'],
    ['Content-Length', ''],
    ['Transfer-Encoding', ''],
    ['Expect', ''],
  ])('costs little CPU time in the header %s of an upload, after "%s"', async (name, prefix) => {
    const body = Buffer.concat([filePart('a.txt', 'no file'), CLOSING]);
    await expectCheap((text) => postOf(body, { [name]: prefix + text.slice(prefix.length) }));
  });

  /** Characters that cannot stand in a path or a query are escaped; those that then do not fit are cut off. */
  const ESCAPED = WORST.map((text) => encodeURIComponent(text).slice(0, LENGTH).replace(/%.?$/, ''));
  const IN_URL = [...new Set([...ESCAPED, ...WORST.filter((text) => /^[!-~]*$/.test(text))])];

  test.each([
    '/',
    '/uploads/',
    '/uploads/a/pages/1/',
    '/uploads/a/originals/',
    '/jobs/',
    '/jobs/bulk/',
    '/schedules/',
    '/job-types/',
    '/docs/',
    '/assets/',
    '/health/',
  ])('costs little CPU time in the path after %s', async (prefix) => {
    await expectCheap((text) => requestOf(`GET ${prefix}${text.slice(prefix.length)}`, {}), IN_URL);
    await expectCheap((text) => requestOf(`GET ${prefix}${text.slice(prefix.length + 4)}.png`, {}), IN_URL);
  });

  test.each([
    ['/uploads', ['status', 'search', 'limit', 'cursor', 'a', '']],
    ['/jobs', ['status', 'type', 'priority', 'upload_id', 'created_after', 'created_before', 'limit', 'cursor']],
    ['/uploads/{id}/pages', ['limit', 'cursor']],
    ['/jobs/a/logs', ['after', 'cursor', 'limit']],
    ['/schedules', ['limit', 'cursor']],
  ])('costs little CPU time in the query of %s', async (route, names) => {
    for (const name of names) {
      const start = `GET ${route.replace('{id}', uploadId)}?${name}${name === '' ? '' : '='}`;
      await expectCheap((text) => requestOf(start + text.slice(100), {}), IN_URL);
    }
  });

  const json = (line: string, body: unknown) =>
    requestOf(line, { 'Content-Type': 'application/json' }, Buffer.from(JSON.stringify(body)));

  test.each(['job_id', 'type', 'priority', 'run_at', 'notify_url', 'concurrency_key', 'run_on', 'unknown'])(
    'costs little CPU time as %s of a job',
    async (field) => {
      await expectCheap((text) => json('POST /jobs', { type: 'checksum', [field]: text }));
      await expectCheap((text) =>
        json('POST /jobs', { type: 'checksum', depends_on: [text], payload: { [text]: text } }),
      );
    },
  );

  test.each(['cron', 'timezone', 'overlap', 'missed'])('costs little CPU time as %s of a schedule', async (field) => {
    await expectCheap((text) => json('PUT /schedules/a', { cron: '@daily', job: { type: 'checksum' }, [field]: text }));
  });

  test.each(['dpi', 'pages', 'password', 'priority', 'expires_at', 'notify_url', 'engine', 'unknown'])(
    'costs little CPU time as the field %s of an upload',
    async (field) => {
      const field2k = (text: string) => part(`Content-Disposition: form-data; name="${field}"`, text.slice(0, 2_000));
      await expectCheap((text) => postOf(Buffer.concat([field2k(text), CLOSING])));
    },
  );

  test.each([
    'Content-Disposition: ',
    'Content-Disposition: form-data; name="file"; filename="',
    'Content-Disposition: form-data; name="file"; filename=',
    'Content-Disposition: form-data; name="file"; filename*=UTF-8\'',
    'Content-Disposition: form-data; ',
    'Content-Type: ',
    'X: y\r\n',
  ])('costs little CPU time in the head of a part, after %j', async (prefix) => {
    await expectCheap((text) => postOf(Buffer.concat([part(prefix + text, '%PDF-1.7'), CLOSING])));
  });
});

test('a cron expression costs little CPU time even if it fires rarely, and an RRULE is refused', async () => {
  const rule = { cron: 'RRULE:FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=29', job: { type: 'checksum' } };
  const put = requestOf(
    'PUT /schedules/rare',
    { 'Content-Type': 'application/json' },
    Buffer.from(JSON.stringify(rule)),
  );
  expect(await exchange(put)).toMatch(/^HTTP\/1.1 400 /);
  for (const cron of [
    '0 0 29 2 *',
    '59 23 29 2 *',
    '*/7 */5 */3 */2 *',
    '30 2 8-14 3 *',
    `${'1,'.repeat(90)}1 0 29 2 *`,
  ]) {
    let least = Number.POSITIVE_INFINITY;
    for (let tries = 0; tries < MAX_TRIES && least > MAX_EXTRA_MS; tries++) {
      const began = performance.now();
      // From here on there is no leap year for eight years.
      nextRun(cron, 'America/New_York', new Date('2096-03-01T00:00:00Z'));
      least = Math.min(least, performance.now() - began);
    }
    expect(least).toBeLessThan(MAX_EXTRA_MS);
  }
});
