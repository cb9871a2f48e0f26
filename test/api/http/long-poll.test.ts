import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { waitOf } from '../../../api/http/prefer.ts';
import { makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, ONE_REQUEST, type Service, startService, until } from '../../support/service.ts';

let service: Service;
let pdf: Buffer;

beforeAll(async () => {
  service = await startService({ env: { TASKS: './examples/tasks/index.ts' } });
  await pause();
  pdf = await makePdf([{ color: RED }, { color: RED }]);
});
afterAll(() => service.stop());

/** A GET with an optional wait; `seconds` is the duration until the answer. */
async function get(route: string, prefer?: string, signal: AbortSignal | null = null) {
  const began = performance.now();
  const headers = { ...ONE_REQUEST, ...(prefer !== undefined && { Prefer: prefer }) };
  const response = await fetch(service.url + route, { headers, signal });
  const body: Json = await response.json();
  return {
    status: response.status,
    body,
    applied: response.headers.get('preference-applied'),
    retryAfter: response.headers.get('retry-after'),
    seconds: (performance.now() - began) / 1000,
  };
}

async function uploaded(): Promise<string> {
  return (await service.upload([['a.pdf', pdf]])).body.id;
}

const TYPES = ['convert', 'noop'];

async function changeTypes(action: 'pause' | 'resume'): Promise<void> {
  for (const type of TYPES) {
    const { status, text } = await service.post(`/job-types/${type}/${action}`);
    if (status !== 200) throw new Error(`${action} ${type}: ${status} ${text}`);
  }
}

/** The converter starts no job until `whileConverting`. */
const pause = () => changeTypes('pause');

/** Lets the converter start jobs during `work`. */
async function whileConverting<T>(work: () => Promise<T>): Promise<T> {
  await changeTypes('resume');
  try {
    return await work();
  } finally {
    await pause();
  }
}

test.each([
  ['wait=30', 30],
  ['WAIT = 30', 30],
  ['respond-async, wait=10', 10],
  ['foo="a, wait=5"; bar, wait="7"', undefined],
  ['foo="a, wait=5", wait=6;x=y', 6],
  ['wait=1, wait=2', 1],
  ['wait=600', 60],
  ['wait=99999999999999999999', 60],
  ['wait=0', 0],
  ['wait', undefined],
  ['wait=', undefined],
  ['wait=-1', undefined],
  ['wait=1.5', undefined],
  ['waits=3', undefined],
  ['"wait=3', undefined],
  ['wait=3 4', undefined],
  [`wait=3${' ;'.repeat(400)} @`, undefined],
  [`wait=3${' ; a = b'.repeat(100)} ; `, 3],
  [undefined, undefined],
])('Prefer: %s waits %s seconds', (header, seconds) => {
  expect(waitOf(header)).toBe(seconds);
});

test('all waiters for an upload are answered when it is done', async () => {
  const id = await uploaded();
  const job = (await service.get(`/jobs?upload_id=${id}`)).items[0].job_id;
  const routes = [`/uploads/${id}/status`, `/uploads/${id}`, `/jobs/${job}`, `/uploads/${id.toUpperCase()}/status`];
  const answers = await whileConverting(() => Promise.all(routes.map((route) => get(route, 'wait=60'))));
  for (const answer of answers) {
    expect(answer).toMatchObject({ status: 200, applied: 'wait=60', retryAfter: null });
    expect(answer.body.status).toBe('completed');
    expect(answer.seconds).toBeLessThan(50);
  }
  expect(answers[1]?.body.pages).toHaveLength(2);
  const again = await get(`/uploads/${id}/status`, 'wait=60');
  expect(again).toMatchObject({ applied: 'wait=60', body: { done: true } });
  expect(again.seconds).toBeLessThan(5);
  await expectNothingLeft(service);
});

test('an answer after the maximum wait has the progress and Retry-After', async () => {
  const id = await uploaded();
  const held = await get(`/uploads/${id}/status`, 'wait=1');
  expect(held).toMatchObject({
    status: 200,
    applied: 'wait=1',
    retryAfter: '1',
    body: { status: 'queued', done: false },
  });
  expect(held.seconds).toBeGreaterThan(0.9);
  const atOnce = await get(`/uploads/${id}/status`, 'wait=soon');
  expect(atOnce).toMatchObject({ status: 200, applied: null, retryAfter: '1' });
  expect((await get('/uploads/00000000-0000-7000-8000-000000000000/status', 'wait=60')).status).toBe(404);
  await whileConverting(() => service.done(id));
  await expectNothingLeft(service);
});

test('a thousand waiters are answered when their jobs end, and disconnected waiters are removed', async () => {
  const jobs: Json[] = await service.submit(Array(1_000).fill({ type: 'noop' }));
  const gone = new AbortController();
  const left = jobs
    .slice(0, 100)
    .map(({ job_id }) => get(`/jobs/${job_id}`, 'wait=60', gone.signal).catch(() => 'gone'));
  const answers = jobs.map(({ job_id }) => get(`/jobs/${job_id}`, 'wait=60'));
  await delay(500);
  gone.abort();
  expect(new Set(await Promise.all(left))).toEqual(new Set(['gone']));
  const statuses = await whileConverting(() => Promise.all(answers));
  expect(new Set(statuses.map(({ body }) => body.status))).toEqual(new Set(['completed']));
  await expectNothingLeft(service);
});

test('a job that ends between the first read and the wait wakes the waiter', async () => {
  await whileConverting(async () => {
    for (let round = 0; round < 40; round++) {
      const { job_id } = await service.submit({ type: 'noop' });
      // The delays cover a read before, during and after the end of the job.
      await delay(round % 10);
      const { body, seconds } = await get(`/jobs/${job_id}`, 'wait=30');
      expect(body.status).toBe('completed');
      expect(seconds).toBeLessThan(20);
    }
  });
  await expectNothingLeft(service);
});

test('an open transaction in another database delays no answer', async () => {
  const other = new pg.Client({ connectionString: process.env.TEST_POSTGRES_URL });
  await other.connect();
  try {
    await whileConverting(async () => {
      const warm = await service.submit({ type: 'noop' });
      await get(`/jobs/${warm.job_id}`, 'wait=60');
      await other.query('begin; select pg_current_xact_id()');
      const id = await uploaded();
      const answers = await Promise.all([
        get(`/uploads/${id}/status`, 'wait=20'),
        service.submit({ type: 'noop' }).then(({ job_id }: Json) => get(`/jobs/${job_id}`, 'wait=20')),
      ]);
      expect(answers.map(({ body }) => body.status)).toEqual(['completed', 'completed']);
    });
  } finally {
    await other.end();
  }
  await expectNothingLeft(service);
});

test('a cancelled job ends the wait, and an API that stops answers its waiters with the current state', async () => {
  const { job_id } = await service.submit({ type: 'noop' });
  const held = get(`/jobs/${job_id}`, 'wait=60');
  await until(async () => (await service.patch(`/jobs/${job_id}/cancel`)).status === 200);
  expect((await held).body.status).toBe('cancelled');

  const id = await uploaded();
  const waiting = Array.from({ length: 20 }, () => get(`/uploads/${id}/status`, 'wait=60'));
  await delay(500);
  await service.end(service.api);
  for (const answer of await Promise.all(waiting)) {
    expect(answer).toMatchObject({ status: 200, retryAfter: '1', body: { id, status: 'queued' } });
    expect(answer.seconds).toBeLessThan(20);
  }
  await service.startApi();
  await whileConverting(() => service.done(id));
  await expectNothingLeft(service);
});
