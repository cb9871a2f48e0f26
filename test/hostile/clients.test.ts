import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { makeImage } from '../support/files.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';
import { expectUnharmed, underAttack } from './normal-client.ts';
import { flood, handshake, head, openWire } from './wire.ts';

/** Clients that want all of a service for themselves, beside one that wants its status. */

const ATTACKER = 'key-of-the-attacker';
const NORMAL_CLIENT = 'key-of-the-client';
/** The API has about 120 MB when it is idle. */
const MAX_PEAK_MB = 400;
const MB = 2 ** 20;
const MANY_SCHEDULES = 500;
const AS_ATTACKER = { Authorization: `Bearer ${ATTACKER}` };
const AS_NORMAL_CLIENT = { Authorization: `Bearer ${NORMAL_CLIENT}` };

const keys = Object.entries({ attacker: ATTACKER, client: NORMAL_CLIENT }).map(([name, key]) => ({
  name,
  sha256: createHash('sha256').update(key).digest('hex'),
  scopes: ['uploads:read', 'uploads:write', 'jobs:*'],
}));

let service: Service;
let upload: string;
/** Uploads of the attacker: one that is completed, and one that failed. */
let target: string;
let failed: string;
beforeAll(async () => {
  // The API logs their requests as errors.
  service = await startService({
    env: {
      API_KEYS: JSON.stringify(keys),
      LOG_LEVEL: 'fatal',
      RATE_LIMIT_PER_MINUTE: '100000',
      SHUTDOWN_GRACE_SECONDS: '1',
    },
  });
  upload = await uploadAs(AS_NORMAL_CLIENT);
  target = await uploadAs(AS_ATTACKER);
  failed = await uploadAs(AS_ATTACKER, Buffer.from('%PDF-1.7\nno more'));
});
// The memory of one attack must not count for the next.
afterEach(async () => {
  await service.end(service.api);
  await service.startApi();
});
afterAll(() => service.stop());

async function uploadAs(headers: Record<string, string>, bytes?: Buffer): Promise<string> {
  const { status, body } = await service.upload([['a.png', bytes ?? (await makeImage())]], {}, headers);
  expect([status, body.code]).toEqual([200, undefined]);
  const ended = await service.send('GET', `/uploads/${body.id}/status`, undefined, { ...headers, Prefer: 'wait=60' });
  expect(ended.body).toMatchObject({ done: true });
  return body.id;
}

/** Runs the attack of the test that runs, and expects that the normal client does not notice. */
async function expectHarmless(attack: () => Promise<unknown>, routes = [`/uploads/${upload}/status`]): Promise<void> {
  const title = expect.getState().currentTestName ?? '';
  const watched = { url: service.url, key: NORMAL_CLIENT, routes, pid: service.api.pid ?? 0 };
  const seen = await underAttack(title, watched, attack);
  expectUnharmed(seen);
  expect(seen.peakMb).toBeLessThan(MAX_PEAK_MB);
}

/** Rows that belong to `owner`, made by SQL with the triggers off. */
async function fill(statement: string): Promise<void> {
  const client = await service.pool.connect();
  try {
    await client.query('set session_replication_role = replica');
    await client.query(statement);
    await client.query('set session_replication_role = origin');
    await client.query('analyze');
  } finally {
    client.release(true);
  }
}

/** Sends the same request with JSON many times at once, and counts the answers by status. */
async function sendMany(count: number, method: string, route: (index: number) => string, body?: unknown) {
  const answers: Record<string, number> = {};
  const send = async (index: number) => {
    const { status } = await service.send(method, route(index), body, AS_ATTACKER);
    answers[status] = (answers[status] ?? 0) + 1;
  };
  await Promise.all(Array.from({ length: count }, (_, index) => send(index)));
  return answers;
}

test('a Prefer header that makes a pattern backtrack takes no time', async () => {
  const headers = { ...AS_ATTACKER, Prefer: `a${'; '.repeat(25)}` };
  await expectHarmless(() => flood(service.url, 1, head(`GET /uploads/${target}/status`, headers), { ms: 20_000 }));
}, 60_000);

test('a WebSocket protocol of blanks, without a key, takes no time', async () => {
  const blanks = handshake('/jobs/stream', { 'Sec-WebSocket-Protocol': `a${' '.repeat(15_900)}b` });
  await expectHarmless(() => flood(service.url, 40, blanks, { ms: 20_000 }));
}, 60_000);

test('schedules that rarely run take no time', async () => {
  const schedule = { cron: '0 0 29 2 *', job: { type: 'checksum', payload: { upload_id: target } } };
  await expectHarmless(async () => {
    const answers = await sendMany(MANY_SCHEDULES, 'PUT', (index) => `/schedules/rare-${index}`, schedule);
    // Longer than between two looks at the schedules.
    await delay(6_000);
    return answers;
  });
  await sendMany(MANY_SCHEDULES, 'DELETE', (index) => `/schedules/rare-${index}`);
}, 90_000);

test('archives of one upload do not fill the store', async () => {
  const noise = Buffer.from(
    Array.from({ length: 600 * 600 * 3 }, (_, at) => (Math.imul(at, 2_654_435_761) >>> 24) & 255),
  );
  const sharp = (await import('sharp')).default;
  const image = await sharp(noise, { raw: { width: 600, height: 600, channels: 3 } })
    .png()
    .toBuffer();
  const large = await uploadAs(AS_ATTACKER, image);
  const job = { type: 'archive', payload: { upload_id: large } };
  await expectHarmless(async () => {
    const answers = await sendMany(60, 'POST', () => '/jobs', job);
    await until(async () => (await service.leftovers()).jobs === 0, 60_000);
    return answers;
  });
  const archives = (await service.storedFiles()).filter((file) => file.endsWith('.zip'));
  expect(archives.length).toBeLessThanOrEqual(1);
}, 120_000);

test('JSON bodies that never end are bounded in all', async () => {
  const bytes = 10 * MB;
  const start = head('POST /jobs', {
    ...AS_ATTACKER,
    'Content-Type': 'application/json',
    'Content-Length': String(bytes),
  });
  const all = Buffer.concat([Buffer.from(start), Buffer.alloc(bytes - 1, ' ')]);
  await expectHarmless(() => flood(service.url, 100, all));
}, 60_000);

test('silent connections do not keep others out', async () => {
  await expectHarmless(() => flood(service.url, 4_200, '', { ms: 4_000 }));
}, 60_000);

test('waits of one key do not keep others out', async () => {
  const running = await service.send('POST', '/jobs', later(), AS_ATTACKER);
  const wait = head(`GET /jobs/${running.body.job_id}`, { ...AS_ATTACKER, Prefer: 'wait=60' });
  await expectHarmless(() => flood(service.url, 4_200, wait, { ms: 6_000 }));
}, 60_000);

test('streams of one key that read nothing do not keep others out', async () => {
  const stream = handshake('/jobs/stream', AS_ATTACKER);
  let others: number[] = [];
  await expectHarmless(async () => {
    const flooding = flood(service.url, 1_000, stream, { ms: 8_000, isDeaf: true });
    await delay(1_000);
    await service.pool.query(
      `insert into events (kind, owner, job_id, type, status, attempt)
       select 'job', 'attacker', 'job_' || n, repeat('x', 200), 'running', 1 from generate_series(1, 10000) n`,
    );
    const client = Array.from({ length: 5 }, () => openWire(service.url, handshake('/jobs/stream', AS_NORMAL_CLIENT)));
    others = await Promise.all(client.map(({ status }) => status));
    for (const { socket } of client) socket.destroy();
    return flooding;
  });
  expect(others).toEqual(Array(5).fill(101));
}, 60_000);

test('cancels and retries of one upload at once do not keep others from the database', async () => {
  await expectHarmless(async () => {
    const routes = ['cancel', 'retry'];
    return sendMany(1_000, 'POST', (index) => `/uploads/${failed}/${routes[index % 2]}`);
  });
}, 90_000);

test('streams that begin long ago do not keep others from the database', async () => {
  await fill(
    `insert into events (kind, owner, job_id, type, status, attempt)
     select 'job', 'somebody', 'job_' || n, 'checksum', 'running', 1 from generate_series(1, 400000) n`,
  );
  await expectHarmless(() => flood(service.url, 20, handshake('/jobs/stream?after=0', AS_ATTACKER)));
}, 120_000);

test('the document of an upload with 100,000 pages is small', async () => {
  await fill(
    `insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, engine)
     select '${target}', 1, n, 'completed', 'uploads/x/pages/1-' || n || '.png', 100, 100, 1000, repeat('0', 64), 'sharp'
     from generate_series(2, 100000) n`,
  );
  let document: Json;
  await expectHarmless(async () => {
    const answers = await flood(
      service.url,
      30,
      head(`GET /uploads/${target}`, { ...AS_ATTACKER, Connection: 'close' }),
    );
    document = (await service.send('GET', `/uploads/${target}`, undefined, AS_ATTACKER)).body;
    return answers;
  });
  expect(document.pages.length).toBeLessThanOrEqual(200);
  expect(document.pages_next_cursor).toEqual(expect.any(String));
}, 120_000);

test('a search that no index can answer is refused', async () => {
  await fill(
    `with made as (
       insert into uploads (id, status, priority, dpi, owner, pages_done, pages_total, finished_at)
       select gen_random_uuid(), 'completed', 'normal', 200, 'attacker', 1, 1, now() from generate_series(1, 200000)
       returning id)
     insert into originals (upload_id, original, filename, media_type, bytes, sha256, path, page_count)
     select id, 1, 'scan.pdf', 'application/pdf', 1, repeat('0', 64), 'uploads/' || id || '/originals/1.pdf', 1 from made`,
  );
  let answers: Record<string, number> = {};
  await expectHarmless(async () => {
    answers = await sendMany(30, 'GET', () => '/uploads?search=___');
    return answers;
  });
  expect(answers).toEqual({ 400: 30 });
}, 120_000);

test('a multipart body that never reaches its boundary is cut off', async () => {
  const start = head('POST /uploads', {
    ...AS_ATTACKER,
    'Content-Type': 'multipart/form-data; boundary=x',
    'Transfer-Encoding': 'chunked',
  });
  const chunk = Buffer.concat([Buffer.from(`${MB.toString(16)}\r\n`), Buffer.alloc(MB, 'a'), Buffer.from('\r\n')]);
  let sentMb = 0;
  await expectHarmless(async () => {
    const { socket, status } = openWire(service.url, start);
    let isOpen = true;
    const answered = status.then((code) => {
      isOpen = false;
      return code;
    });
    for (; isOpen && sentMb < 256; sentMb++) {
      await new Promise((resolve) => socket.write(chunk, resolve));
    }
    const ended = await Promise.race([answered, delay(2_000)]);
    socket.destroy();
    return { status: ended ?? 'none', sentMb };
  });
  expect(sentMb).toBeLessThan(64);
}, 60_000);

function later() {
  return {
    type: 'checksum',
    payload: { upload_id: target },
    run_at: new Date(Date.now() + 3_600_000).toISOString(),
  };
}
