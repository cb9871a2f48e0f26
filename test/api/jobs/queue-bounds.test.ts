import { createHash } from 'node:crypto';
import { makeImage } from '../../support/files.ts';
import { type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';
import { answerTo, openPost } from '../uploads/multipart.ts';

/** Each test has a separate owner, and no converter runs the jobs. */
const NAMES = ['flood', 'other', 'bytes', 'shapes', 'burst', 'early', 'small'];
const LIMITS = {
  MAX_QUEUED_JOBS: '100',
  MAX_QUEUED_JOBS_PER_OWNER: '8',
  MAX_QUEUED_PAYLOAD_MB_PER_OWNER: '1',
  MAX_SHAPES_PER_OWNER: '3',
};
const TOMORROW = new Date(Date.now() + 86_400_000).toISOString();

let png: Buffer;
let service: Service;
let open: Service;
beforeAll(async () => {
  png = await makeImage();
  const keys = NAMES.map((name) => ({
    name,
    sha256: createHash('sha256').update(name).digest('hex'),
    scopes: ['uploads:read', 'uploads:write', 'jobs:*'],
  }));
  const env = { TASKS: './examples/tasks/index.ts', LOG_LEVEL: 'fatal', ...LIMITS };
  [service, open] = await Promise.all([
    startService({ converters: 0, env: { ...env, API_KEYS: JSON.stringify(keys) } }),
    startService({ converters: 0, env: { ...env, MAX_QUEUED_JOBS: '40' } }),
  ]);
});
afterAll(() => Promise.all([service.stop(), open.stop()]));

const as = (name: string) => ({ Authorization: `Bearer ${name}` });
const post = (name: string, jobs: unknown) => service.post('/jobs', jobs, as(name));
const upload = (name: string) => service.upload([['a.png', png]], {}, as(name));
const noops = (count: number, more: Json = {}) => Array.from({ length: count }, () => ({ type: 'noop', ...more }));
const waiting = async (name: string) => (await service.send('GET', '/jobs?limit=200', undefined, as(name))).body.items;

test('an owner beyond its limit is refused with 429, for uploads too, and other owners are not', async () => {
  expect((await post('flood', noops(4))).status).toBe(201);
  expect((await post('flood', noops(3, { run_at: TOMORROW }))).status).toBe(201);
  expectProblem(await post('flood', noops(2)), 429, 'too_many_requests', /at most 8 of your jobs may wait, and 7 do/);
  expect((await upload('flood')).status).toBe(200);
  for (const answer of [await post('flood', noops(1)), await upload('flood')]) {
    expectProblem(answer, 429, 'too_many_requests', /and 8 do/);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  }
  expect(await waiting('flood')).toHaveLength(8);
  expect((await upload('other')).status).toBe(200);
  expect((await post('other', noops(1))).status).toBe(201);

  const [job] = await waiting('flood');
  expect((await service.send('PATCH', `/jobs/${job.job_id}/cancel`, undefined, as('flood'))).status).toBe(200);
  const { status } = await untilAccepted(() => post('flood', noops(1)));
  expect(status).toBe(201);
});

test('children that converters add do not count against the limit of the queue', async () => {
  await service.pool.query(`
    insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, ready_at, queue_id, max_attempts,
      initial_delay_seconds, backoff_multiplier, timeout_seconds, owner)
    select 'part_' || n, 'noop', 'normal', now(), '{}', 1, 256, 'ready', now(), gen_random_uuid(), 1, 1, 1, 1, 'large'
    from generate_series(1, 100) n`);
  expect((await untilAccepted(() => upload('other'))).status).toBe(200);
});

test('concurrent requests do not exceed the limit together', async () => {
  const answers = await Promise.all(Array.from({ length: 30 }, () => post('burst', noops(2))));
  expect(answers.filter(({ status }) => status === 201)).toHaveLength(4);
  expect(answers.filter(({ status }) => status === 429)).toHaveLength(26);
  expect(await waiting('burst')).toHaveLength(8);
});

test('the bytes of waiting payloads are limited, also when jobs are changed', async () => {
  // Two bytes each.
  const large = { type: 'reverse', payload: { input: 'é'.repeat(100_000) } };
  const [job] = (await post('bytes', [large, large, large, large])).body.items;
  expectProblem(await post('bytes', [large, large]), 429, 'too_many_requests', /at most 1 MB/);
  const { items } = (await post('bytes', Array(2).fill({ ...large, payload: { input: '' } }))).body;
  const [small, other] = items.map(({ job_id }: Json) => job_id);
  const change = (id: string, payload: Json) => service.send('PATCH', `/jobs/${id}`, { payload }, as('bytes'));
  expect((await change(small, large.payload)).status).toBe(200);
  expectProblem(await change(other, large.payload), 429, 'too_many_requests', /at most 1 MB/);
  expect((await change(job.job_id, { input: 'é'.repeat(99_999) })).status).toBe(200);
});

test('the number of waiting shapes is limited, and a shape that waits already is accepted', async () => {
  const shaped = (cpu_units: number, memory_mb = 256) => ({
    type: 'noop',
    resource_requirements: { cpu_units, memory_mb },
  });
  expect((await post('shapes', [shaped(1), shaped(2), shaped(3)])).status).toBe(201);
  expectProblem(await post('shapes', shaped(4)), 429, 'too_many_requests', /at most 3 different values \(now 3/);
  // Another size of the same class is the same shape.
  expect((await post('shapes', shaped(3, 200))).status).toBe(201);
  const many = [shaped(1), shaped(2), shaped(3), shaped(4)];
  expectProblem(await post('shapes', many), 400, 'invalid_request', /at most 3 different values \(got 4\)/);
});

test('a batch beyond the limit of its owner is invalid', async () => {
  expectProblem(await post('small', noops(9)), 400, 'invalid_request', /at most 8 jobs \(got 9\)/);
});

test('an owner at its limit is refused before the body is read', async () => {
  expect((await post('early', noops(8))).status).toBe(201);
  const opened = openPost(service.url, { 'Content-Length': 1_000_000, ...as('early') });
  opened.flushHeaders();
  expect(await answerTo(opened)).toMatchObject({ status: 429, body: { code: 'too_many_requests' } });
  opened.destroy();
});

test('without keys, only the limit of the whole queue applies to jobs', async () => {
  expect((await open.post('/jobs', noops(39))).status).toBe(201);
  expectProblem(await open.post('/jobs', noops(2)), 503, 'unavailable', /at most 40 jobs may be ready, and 39 are/);
  expect((await open.post('/jobs', noops(1))).status).toBe(201);
  expectProblem(await open.post('/jobs', noops(1)), 503, 'unavailable');
  expect((await open.upload([['a.png', png]])).status).toBe(503);
});

test('metrics have separate series for 64 shapes at most', async () => {
  await open.pool.query(`
    insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, ready_at, queue_id, max_attempts,
      initial_delay_seconds, backoff_multiplier, timeout_seconds)
    select 'shape_' || n, 'noop', 'normal', now(), '{}', n, 512, 'ready', now(), gen_random_uuid(), 1, 1, 1, 1
    from generate_series(1, 100) n`);
  const text = await (await fetch(`${open.url}/metrics`)).text();
  const series = text.match(/^sheetmill_queue_depth\{.*$/gm) ?? [];
  expect(series).toHaveLength(65);
  expect(series).toContain('sheetmill_queue_depth{cpu_units="other",memory_mb="other"} 37');
});

/** Repeats a request for at most a second while a limit refuses it, since the limits read the database twice a second. */
async function untilAccepted<Answer extends { status: number }>(ask: () => Promise<Answer>): Promise<Answer> {
  const deadline = performance.now() + 1_000;
  for (;;) {
    const answer = await ask();
    if ((answer.status !== 429 && answer.status !== 503) || performance.now() > deadline) return answer;
  }
}
