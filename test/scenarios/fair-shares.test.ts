import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expectProblem } from '../api/http/problems.ts';
import { insertUploads } from '../support/listed-uploads.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';

const MANY_PAGES = 100_000;
const BATCH_BYTES = 10 * 2 ** 20;

/** Alice sends as many requests as she can; bob must not notice. */
let service: Service;
beforeAll(async () => {
  const keys = ['alice', 'bob'].map((name) => ({
    name,
    sha256: createHash('sha256').update(name).digest('hex'),
    scopes: ['uploads:read', 'uploads:write', 'jobs:*'],
  }));
  service = await startService({
    converters: 0,
    env: { API_KEYS: JSON.stringify(keys), TASKS: './examples/tasks/index.ts' },
  });
});
afterAll(() => service.stop());

const headersOf = (name: string) => ({ Authorization: `Bearer ${name}` });
const as = (name: string, method: string, route: string, body?: unknown) =>
  service.send(method, route, body, headersOf(name));
const times = <Result>(count: number, work: (index: number) => Result) =>
  Array.from({ length: count }, (_, index) => work(index));
const statusesOf = (answers: { status: number }[]) => new Set(answers.map(({ status }) => status));

/** Holds a lock of Postgres while `work` is done. */
async function whileLocked<Result>(statement: string, work: () => Promise<Result>): Promise<Result> {
  const client = await service.pool.connect();
  try {
    await client.query('begin');
    await client.query(statement);
    return await work();
  } finally {
    await client.query('rollback');
    client.release();
  }
}

/** Opens a POST /jobs of alice with a body of 10 MB that lacks its last byte. */
function openBody(): { socket: Socket; answer: Promise<string> } {
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1').on('error', () => undefined);
  socket.write(
    `POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer alice\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${BATCH_BYTES}\r\n\r\n`,
  );
  socket.write(Buffer.alloc(BATCH_BYTES - 1, ' '));
  return { socket, answer: once(socket, 'data').then(([bytes]) => String(bytes)) };
}

test('requests that wait for locks do not block other owners, and are refused as conflicts and not as outages', async () => {
  const { body } = await as(
    'alice',
    'POST',
    '/jobs',
    times(40, () => ({ type: 'noop' })),
  );
  const ids: string[] = body.items.map(({ job_id }: Json) => job_id);
  await whileLocked(`select from jobs where owner = 'alice' for update`, async () => {
    const cancels = ids.map((id) => as('alice', 'PATCH', `/jobs/${id}/cancel`));
    const first = Promise.race(cancels);
    let isRefused = false;
    void first.then(() => {
      isRefused = true;
    });
    for (const route of ['/uploads', '/jobs', '/system']) expect((await as('bob', 'GET', route)).status).toBe(200);
    const { status } = await as('bob', 'POST', '/jobs', { type: 'noop' });
    expect([status, isRefused]).toEqual([201, false]);
    expectProblem(await first, 503, 'unavailable', /another change is in progress/);
    await Promise.all(cancels);
  });
  expect(statusesOf(await Promise.all(ids.map((id) => as('alice', 'PATCH', `/jobs/${id}/cancel`))))).toEqual(
    new Set([200]),
  );
});

test('hundreds of concurrent cancels and retries of one job succeed or are conflicts', async () => {
  const { body } = await as('alice', 'POST', '/jobs', { type: 'noop' });
  const calls = times(300, (index) =>
    index % 2 === 0
      ? as('alice', 'PATCH', `/jobs/${body.job_id}/cancel`)
      : as('alice', 'POST', `/jobs/${body.job_id}/retry`),
  );
  const statuses = statusesOf(await Promise.all(calls));
  statuses.delete(409);
  expect(statuses).toEqual(new Set([200]));
});

test('slow searches are refused, and do not block the queries of other owners', async () => {
  const { body } = await as('bob', 'POST', '/jobs', { type: 'noop' });
  await whileLocked('lock table originals in access exclusive mode', async () => {
    const searches = times(20, () => as('alice', 'GET', '/uploads?search=report'));
    const [first] = await Promise.all([
      Promise.race(searches),
      ...times(3, async () => {
        for (const route of [`/jobs/${body.job_id}/graph`, '/system', '/jobs', `/jobs/${body.job_id}`]) {
          expect((await as('bob', 'GET', route)).status).toBe(200);
        }
      }),
    ]);
    expectProblem(first, 503, 'unavailable', /the query took too long/);
    expect(first.headers.get('retry-after')).toBe('5');
    await Promise.all(searches);
  });
  expect((await as('alice', 'GET', '/uploads?search=report')).status).toBe(200);
});

test('the JSON bodies of one owner in memory are limited, and other owners can still send theirs', async () => {
  const bodies = times(10, openBody);
  let refused = 0;
  for (const { answer } of bodies) {
    void answer.then((text) => {
      expect(text).toMatch(/^HTTP\/1.1 429 .*retry-after: 5\r\n.*too many bytes of JSON/is);
      refused++;
    });
  }
  // Each body takes 10 MB of the 32 MB of alice.
  await until(async () => refused === 7);
  expect(
    (
      await as(
        'alice',
        'POST',
        '/jobs',
        times(1_000, () => ({ type: 'noop' })),
      )
    ).status,
  ).toBe(201);
  const large = { type: 'noop', payload: { text: 'x'.repeat(200_000) } };
  expect((await as('bob', 'POST', '/jobs', [large, large])).status).toBe(201);
  for (const { socket } of bodies) socket.destroy();
  await until(async () => {
    const { socket, answer } = openBody();
    socket.write(' ');
    const text = await answer;
    socket.destroy();
    return /^HTTP\/1.1 400 /.test(text);
  });
});

test('the pages of concurrent archives of one owner are limited, and other owners get theirs', async () => {
  const [id = ''] = await insertUploads(service.pool, ['many.pdf'], 'alice');
  const [small = ''] = await insertUploads(service.pool, ['small.pdf'], 'bob');
  for (const [upload, count] of [
    [id, MANY_PAGES],
    [small, 1],
  ] as const) {
    await service.pool.query(
      `insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, dpi, engine)
       select $1::uuid, 1, n, 'completed', 'p/' || n, 9, 9, 9, repeat('0', 64), 200, 'pdfium' from generate_series(1, $2::int) n`,
      [upload, count],
    );
    await service.pool.query(`update uploads set pages_done = $2, pages_total = $2 where id = $1`, [upload, count]);
  }
  const archives = times(10, () => as('alice', 'HEAD', `/uploads/${id}/archive.zip`));
  expect((await as('bob', 'HEAD', `/uploads/${small}/archive.zip`)).status).toBe(200);
  const statuses = (await Promise.all(archives)).map(({ status }) => status);
  expect(statuses.filter((status) => status === 200).length).toBeGreaterThan(0);
  expect(statuses.filter((status) => status !== 200 && status !== 429)).toEqual([]);
  expect(statuses).toContain(429);
  expect((await as('alice', 'HEAD', `/uploads/${id}/archive.zip`)).headers.get('content-length')).toMatch(/^\d{8}$/);
});
