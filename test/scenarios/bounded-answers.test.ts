import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { listJobs } from '../../db/jobs.ts';
import * as schema from '../../db/schema.ts';
import { expectProblem } from '../api/http/problems.ts';
import { cloneDatabase } from '../support/database.ts';
import { insertUploads } from '../support/listed-uploads.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';

const MANY_PAGES = 100_000;
const MAX_PAGES = 200;
const MAX_WAITS = 1_000;

let database: Awaited<ReturnType<typeof cloneDatabase>>;
let service: Service;
beforeAll(async () => {
  database = await cloneDatabase();
  const keys = ['alice', 'bob'].map((name) => ({
    name,
    sha256: createHash('sha256').update(name).digest('hex'),
    scopes: ['uploads:read', 'uploads:write', 'jobs:*'],
  }));
  service = await startService({
    converters: 0,
    databaseUrl: database.url,
    env: { API_KEYS: JSON.stringify(keys), TASKS: './examples/tasks/index.ts' },
  });
});
afterAll(async () => {
  await service.stop();
  await database.drop();
});

const headersOf = (name: string, more: Record<string, string> = {}) => ({ Authorization: `Bearer ${name}`, ...more });
const get = (route: string, name = 'alice') => service.send('GET', route, undefined, headersOf(name));

/** An upload of two originals with so many pages in all, as rows alone. Page 2 of the first original is missing. */
async function uploadOf(count: number, status = 'processing'): Promise<string> {
  const [id = ''] = await insertUploads(service.pool, ['many.pdf'], 'alice');
  await service.pool.query(
    `update uploads set status = $2, finished_at = case when $2 = 'processing' then null else now() end where id = $1`,
    [id, status],
  );
  await service.pool.query(
    `insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, dpi, engine)
     select $1::uuid, 1 + n % 2, 1 + n / 2 + case when n > 1 and n % 2 = 0 then 1 else 0 end, 'completed', 'p/' || n, 9, 9, 9, repeat('0', 64), 200, 'pdfium'
     from generate_series(0, $2::int - 1) n`,
    [id, count],
  );
  return id;
}

const placeOf = ({ original, page }: Json) => `${original}/${page}`;

test('the document of an upload with 100,000 pages has the first 200 and a cursor', async () => {
  const id = await uploadOf(MANY_PAGES);
  const { status, body, text } = await get(`/uploads/${id}`);
  expect([status, body.pages.length, body.pages_next_cursor]).toEqual([200, MAX_PAGES, expect.any(String)]);
  expect(text.length).toBeLessThan(100_000);
  const next = (await get(`/uploads/${id}/pages?limit=200&cursor=${body.pages_next_cursor}`)).body;
  expect(next.items.map(placeOf)).toEqual(Array.from({ length: MAX_PAGES }, (_, index) => `1/${index + 202}`));
  const cancelled = await service.send('POST', `/uploads/${id}/cancel`, undefined, headersOf('alice'));
  expect([cancelled.status, cancelled.body.pages.length]).toEqual([200, MAX_PAGES]);
});

test('pages are listed once and in order, during and after the conversion', async () => {
  for (const state of ['processing', 'completed']) {
    const id = await uploadOf(501, state);
    const listed: string[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const { status, body } = await get(`/uploads/${id}/pages?limit=83${cursor && `&cursor=${cursor}`}`);
      expect(status).toBe(200);
      listed.push(...body.items.map(placeOf));
      cursor = body.next_cursor;
    }
    const first = ['1/1', ...Array.from({ length: 250 }, (_, index) => `1/${index + 3}`)];
    expect(listed).toEqual([...first, ...Array.from({ length: 250 }, (_, index) => `2/${index + 1}`)]);
    const status = ['cli/main.ts', 'status', id, '--json', '--url', service.url, '--key', 'alice'];
    const { stdout } = await promisify(execFile)(process.execPath, status);
    expect(JSON.parse(stdout)).toMatchObject({ pages_next_cursor: null });
    expect(JSON.parse(stdout).pages.map(placeOf)).toEqual(listed);
  }
  const id = await uploadOf(200, 'completed');
  expect((await get(`/uploads/${id}`)).body).toMatchObject({ pages_next_cursor: null });
  expect((await get(`/uploads/${id}/pages`)).body.items).toHaveLength(50);
  for (const query of ['limit=201', 'limit=0', 'cursor=x', 'cursor=1-0', 'cursor=1-99999999999', 'page=2']) {
    expectProblem(await get(`/uploads/${id}/pages?${query}`), 400, 'invalid_request', /limit|cursor|page/);
  }
  expectProblem(await get(`/uploads/${id}/pages`, 'bob'), 404, 'not_found');
});

test('a list of jobs does not read large payloads and results from Postgres', async () => {
  const large = { random: randomBytes(90_000).toString('base64'), same: 'a'.repeat(100_000) };
  const compressible = { same: 'a'.repeat(200_000) };
  const numbers = { list: Array(1_300).fill(1) };
  const jobs = [large, compressible, numbers, { a: 1 }].map((payload) => ({ type: 'noop', payload }));
  const batches = Array.from({ length: 40 }, () => jobs).flat();
  const submitted: Json[] = [];
  for (let from = 0; from < batches.length; from += 32) {
    const { status, body } = await service.post('/jobs', batches.slice(from, from + 32), headersOf('alice'));
    expect(status).toBe(201);
    submitted.push(...body.items);
  }
  await service.pool.query(`update jobs set result = payload where payload ? 'a'`);
  const { body, text } = await get('/jobs?type=noop&limit=200');
  expect(body.items).toHaveLength(batches.length);
  expect(text.length).toBeLessThan(1_000_000);
  const payloadOf = new Map(submitted.map(({ job_id, payload }) => [job_id, payload]));
  for (const item of body.items) {
    const payload = payloadOf.get(item.job_id);
    const isSmall = 'a' in payload || 'list' in payload;
    expect([item.payload, item.truncated]).toEqual(isSmall ? [payload, undefined] : [null, true]);
    expect(item.result).toEqual('a' in payload ? payload : null);
  }
  const { job_id } = body.items.find(({ result }: Json) => result !== null);
  await service.pool.query(`update jobs set result = $2 where id = $1`, [job_id, compressible]);
  const again = (await get('/jobs?type=noop&limit=200')).body.items.find((item: Json) => item.job_id === job_id);
  expect(again).toMatchObject({ payload: { a: 1 }, result: null, truncated: true });
  expect((await get(`/jobs/${job_id}`)).body).toMatchObject({ payload: { a: 1 }, result: compressible });

  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const { stream } = (client as unknown as { connection: { stream: { bytesRead: number } } }).connection;
  const before = stream.bytesRead;
  await listJobs(drizzle({ client, schema }) as never, { owner: 'alice' }, { limit: 200 });
  expect(stream.bytesRead - before).toBeLessThan(1_000_000);
  await client.end();
});

test('a job has its latest 200 attempts, 50 dependencies in lists, and its webhooks in pages', async () => {
  const dependencies = Array.from({ length: 120 }, (_, index) => `first-${String(index).padStart(3, '0')}`);
  const { status } = await service.post(
    '/jobs',
    [
      ...dependencies.map((job_id) => ({ job_id, type: 'noop' })),
      { job_id: 'last', type: 'noop', priority: 'high', depends_on: dependencies },
    ],
    headersOf('alice'),
  );
  expect(status).toBe(201);
  await service.pool.query(
    `insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb, started_at, finished_at)
     select 'last', n, 'failed', gen_random_uuid(), 'past-1', 1, 256, now(), now() from generate_series(1, 250) n`,
  );
  const [listed] = (await get('/jobs?priority=high')).body.items;
  expect(listed).toMatchObject({ job_id: 'last', truncated: true, depends_on: dependencies.slice(0, 50) });
  const held = service.send('GET', '/jobs/last', undefined, headersOf('alice', { Prefer: 'wait=1' }));
  for (const { body } of [await get('/jobs/last'), await held]) {
    expect(body.depends_on).toEqual(dependencies);
    expect(body.attempts.map(({ attempt }: Json) => attempt)).toEqual(
      Array.from({ length: MAX_PAGES }, (_, index) => index + 51),
    );
  }

  await service.pool.query(
    `insert into webhooks (id, job_id, url, type, status)
     select ('01990000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'last', 'http://client.example/', 'job.failed', 'delivered'
     from generate_series(1, 5) n`,
  );
  const pages = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { body }: Json = await get(`/jobs/last/webhooks?limit=2${cursor && `&cursor=${cursor}`}`);
    pages.push(body.items.map(({ id }: Json) => Number(id.slice(-12))));
    cursor = body.next_cursor;
  }
  expect(pages).toEqual([[1, 2], [3, 4], [5]]);
});

test('an owner with a thousand long polls gets further answers at once, while another owner can still wait', async () => {
  const { body } = await service.post('/jobs', { type: 'noop' }, headersOf('alice'));
  const others = await service.post('/jobs', { type: 'noop' }, headersOf('bob'));
  const wait = (name: string, id: string) =>
    fetch(`${service.url}/jobs/${id}`, { headers: headersOf(name, { Prefer: 'wait=60' }) });
  let answered = 0;
  const waits = Array.from({ length: MAX_WAITS + 5 }, async () => {
    const response = await wait('alice', body.job_id);
    answered++;
    await response.arrayBuffer();
    return response.headers.get('Preference-Applied');
  });
  // The five above the limit are answered before any job ends.
  await until(async () => answered >= 5);
  const other = wait('bob', others.body.job_id);
  await service.send('PATCH', `/jobs/${others.body.job_id}/cancel`, undefined, headersOf('bob'));
  expect((await other).headers.get('Preference-Applied')).toBe('wait=60');
  expect(answered).toBe(5);
  await service.send('PATCH', `/jobs/${body.job_id}/cancel`, undefined, headersOf('alice'));
  const applied = await Promise.all(waits);
  expect(applied.filter((value) => value === null)).toHaveLength(5);
});
