import { buffer } from 'node:stream/consumers';
import yauzl from 'yauzl';
import { BLUE, makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let service: Service;
beforeAll(async () => {
  service = await startService({
    env: { TASKS: './examples/tasks/index.ts', CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '2048' },
  });
});
afterEach(() => expectNothingLeft(service));
afterAll(() => service.stop());

/** Fails without a retry. */
const bad = { type: 'fail', payload: { times: 9 }, retry_config: { max_attempts: 1 } };
/** Fails once, and completes after a manual retry. */
const fickle = { type: 'fail', payload: { times: 1 }, retry_config: { max_attempts: 1 } };

async function submitDone(jobs: Json[]): Promise<Json[]> {
  const submitted: Json[] = await service.submit(jobs);
  return Promise.all(submitted.map(({ job_id }) => service.jobDone(job_id)));
}

test('an unknown or impossible job id is 404 for every call', async () => {
  const impossible = ['a%00b', '%20', '..%2Fjobs', 'x'.repeat(201), "a'b", '%F0%9F%93%84', '-a'];
  for (const id of ['job_unknown', ...impossible]) {
    for (const [method, route] of [
      ['GET', `/jobs/${id}`],
      ['GET', `/jobs/${id}/logs`],
      ['PATCH', `/jobs/${id}/cancel`],
      ['POST', `/jobs/${id}/retry`],
    ] as const) {
      expectProblem(await service.send(method, route), 404, 'not_found');
    }
  }
  expectProblem(await service.send('GET', '/jobs/%ZZ'), 400, 'invalid_request');
  expectProblem(await service.send('DELETE', '/jobs/job_unknown'), 404, 'not_found');
});

test('an attempt has its resources, times, converter and result', async () => {
  const [prime, failed] = await submitDone([
    { type: 'prime', payload: { input: 10 }, resource_requirements: { cpu_units: 2, memory_mb: 384 } },
    bad,
  ]);
  const common = { attempt: 1, converter: expect.stringMatching(/.-\d+$/), finished_at: expect.stringMatching(TIME) };
  expect(prime).toMatchObject({ status: 'completed', result: { output: 29 }, error: null, position_in_queue: null });
  expect(prime.attempts).toEqual([
    {
      ...common,
      status: 'completed',
      cpu_units: 2,
      memory_mb: 384,
      peak_memory_mb: expect.any(Number),
      started_at: prime.started_at,
      error: null,
    },
  ]);
  const error = { code: 'task_failed', message: 'attempt 1 of this job fails, as asked' };
  expect(failed).toMatchObject({ status: 'failed', result: null, error });
  expect(failed.attempts).toEqual([
    {
      ...common,
      status: 'failed',
      cpu_units: 1,
      memory_mb: 256,
      peak_memory_mb: null,
      started_at: failed.started_at,
      error,
    },
  ]);
});

test('a cancelled job fails its dependants, and its retry restarts them', async () => {
  const later = new Date(Date.now() + 3_600_000).toISOString();
  await service.submit([
    { job_id: 'root', type: 'noop', run_at: later },
    { job_id: 'leaf', type: 'noop', depends_on: ['root'] },
    { job_id: 'loner', type: 'noop', depends_on: ['root'] },
  ]);
  expectProblem(await service.post('/jobs/root/retry'), 409, 'conflict', /scheduled/);
  expect((await service.patch('/jobs/loner/cancel')).body).toMatchObject({ status: 'cancelled', depends_on: ['root'] });
  const cancelled = await service.patch('/jobs/root/cancel');
  expect([cancelled.status, cancelled.body]).toEqual([
    200,
    { ...(await service.get('/jobs/root')), status: 'cancelled', finished_at: expect.stringMatching(TIME) },
  ]);
  expect(await service.get('/jobs/leaf')).toMatchObject({
    status: 'failed',
    error: { code: 'dependency_failed', message: 'its prerequisite root was cancelled' },
  });
  for (const id of ['root', 'leaf']) expectProblem(await service.patch(`/jobs/${id}/cancel`), 409, 'conflict', /ended/);
  expectProblem(await service.post('/jobs/leaf/retry'), 409, 'conflict', /root is cancelled: retry that/);

  const retried = await service.post('/jobs/root/retry');
  expect([retried.status, retried.body]).toMatchObject([
    200,
    { status: 'scheduled', finished_at: null, run_at: later },
  ]);
  expect(await service.get('/jobs/leaf')).toMatchObject({ status: 'blocked', error: null, finished_at: null });
  expect(await service.get('/jobs/loner')).toMatchObject({ status: 'cancelled' });
  await service.pool.query(`update jobs set run_at = now(), due_at = now() where id = 'root'`);
  expect(await service.jobDone('root')).toMatchObject({ status: 'completed' });
  expect(await service.jobDone('leaf')).toMatchObject({ status: 'completed', error: null });
  expectProblem(await service.post('/jobs/root/retry'), 409, 'conflict', /completed/);
  expectProblem(await service.patch('/jobs/root/cancel'), 409, 'conflict', /completed/);
});

test('a retry changes the status of dependants at once, even while events are delayed', async () => {
  const run_at = new Date(Date.now() + 3_600_000).toISOString();
  await service.submit([
    { job_id: 'first', type: 'noop', run_at },
    { job_id: 'second', type: 'noop', depends_on: ['first'] },
  ]);
  await service.patch('/jobs/first/cancel');
  // An open transaction delays events.
  const writing = await service.pool.connect();
  await writing.query('begin; select pg_current_xact_id()');
  expect((await service.get('/jobs/second')).status).toBe('failed');
  await service.post('/jobs/first/retry');
  expect((await service.get('/jobs/second')).status).toBe('blocked');
  await writing.query('rollback');
  writing.release();
  await service.patch('/jobs/first/cancel');
});

test('a manual retry starts further attempts and keeps the earlier ones in the history', async () => {
  const [job] = await submitDone([fickle]);
  expect(job).toMatchObject({ status: 'failed', attempts: [{ attempt: 1, status: 'failed' }] });
  const { status, body } = await service.post(`/jobs/${job.job_id}/retry`);
  expect([status, body.error, body.finished_at]).toEqual([200, null, null]);
  expect(await service.jobDone(job.job_id)).toMatchObject({
    status: 'completed',
    result: { attempts: 2 },
    attempts: [
      { attempt: 1, status: 'failed' },
      { attempt: 2, status: 'completed' },
    ],
  });
});

test('POST /jobs/retry retries and counts all matching jobs', async () => {
  await submitDone([
    { ...fickle, job_id: 'fickle-1' },
    { ...fickle, job_id: 'fickle-2', priority: 'high' },
    { job_id: 'waits', type: 'noop', depends_on: ['fickle-1', 'fickle-2'] },
    { job_id: 'waits-longer', type: 'noop', depends_on: ['waits'] },
    { ...bad, job_id: 'hopeless', type: 'fail', priority: 'low' },
  ]);
  const since = (await service.get('/jobs/fickle-1')).created_at;
  const retry = async (body: object) => {
    const answer = await service.post('/jobs/retry', body);
    expect([answer.status, answer.body.status]).toEqual([200, 'completed']);
    expect(answer.headers.get('location')).toBe(`/jobs/bulk/${answer.body.id}`);
    expect(await service.get(`/jobs/bulk/${answer.body.id}`)).toEqual(answer.body);
    return answer.body.count;
  };
  expect(await retry({ status: 'cancelled', created_after: since })).toBe(0);
  expect(await retry({ status: 'failed', type: 'prime' })).toBe(0);
  expect(await retry({ status: 'failed', priority: 'high', created_after: since })).toBe(1);
  expect(await service.jobDone('fickle-2')).toMatchObject({ status: 'completed' });
  // fickle-1, its two dependants, and hopeless.
  expect(await retry({ status: 'failed', created_after: since })).toBe(4);
  for (const id of ['fickle-1', 'waits', 'waits-longer']) expect((await service.jobDone(id)).status).toBe('completed');
  expect(await service.jobDone('hopeless')).toMatchObject({ status: 'failed', attempts: [{}, {}] });

  for (const body of [{}, { status: 'completed' }, { status: 'failed', limit: 1 }, { status: 'failed', type: 1 }, []]) {
    expectProblem(await service.post('/jobs/retry', body), 400, 'invalid_request');
  }
  expectProblem(
    await service.post('/jobs/retry', 'x', { 'Content-Type': 'text/plain' }),
    415,
    'unsupported_media_type',
  );
});

test('POST /jobs/cancel and /jobs/delete change all matching jobs, many of them in the background', async () => {
  const run_at = new Date(Date.now() + 3_600_000).toISOString();
  await service.submit(Array.from({ length: 250 }, () => ({ type: 'noop', priority: 'low', run_at })));
  const filter = { type: 'noop', priority: 'low' };
  const bulk = async (action: string) => {
    const { status, body } = await service.post(`/jobs/${action}`, filter);
    expect([status, body]).toEqual([200, expect.objectContaining({ action, count: 250 })]);
    await until(async () => (await service.get(`/jobs/bulk/${body.id}`)).status === 'completed');
    expect(await service.get(`/jobs/bulk/${body.id}`)).toMatchObject({ done: 250, skipped: 0 });
  };
  await bulk('cancel');
  expect((await service.get('/jobs?type=noop&priority=low&limit=1')).items).toMatchObject([{ status: 'cancelled' }]);
  await bulk('delete');
  expect((await service.get('/jobs?type=noop&priority=low&limit=1')).items).toEqual([]);
  for (const [action, body] of [
    ['cancel', {}],
    ['delete', {}],
    ['cancel', { status: 'failed' }],
    ['delete', { status: 'ready' }],
  ] as const) {
    expectProblem(await service.post(`/jobs/${action}`, body), 400, 'invalid_request');
  }
  expectProblem(await service.send('GET', '/jobs/bulk/nothing'), 404, 'not_found');
});

test('a task receives the results of the dependencies of its job', async () => {
  const [good, bad, after] = await service.submit([
    { job_id: 'given-good', type: 'reverse', payload: { input: 'abc' } },
    { job_id: 'given-bad', type: 'fail', payload: { times: 9 }, retry_config: { max_attempts: 1 } },
    { type: 'collect', depends_on: ['given-good', 'given-bad'], run_on: 'always' },
  ]);
  expect([good.run_on, after.run_on]).toEqual(['success', 'always']);
  expect((await service.jobDone(after.job_id)).result).toEqual({
    dependencies: [
      { id: bad.job_id, status: 'failed', result: null },
      { id: good.job_id, status: 'completed', result: { output: 'cba' } },
    ],
  });
});

test('GET /system has converters with reservations, queues with depths, and recent throughput', async () => {
  const [running, first] = await service.submit([
    {
      type: 'sleep',
      payload: { input: 60 },
      resource_requirements: { cpu_units: 1, memory_mb: 1024 },
      priority: 'high',
    },
    { type: 'sleep', payload: { input: 0 }, resource_requirements: { cpu_units: 2, memory_mb: 512 } },
  ]);
  await service.jobIn('running', running.job_id);
  await service.submit({ type: 'noop', resource_requirements: { cpu_units: 2, memory_mb: 512 } });
  const { converters, queues, throughput } = await service.get('/system');
  expect(converters).toEqual([
    {
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      name: expect.stringMatching(new RegExp(`-${service.converters[0]?.pid}$`)),
      capacity: { cpu_units: 2, memory_mb: 2048 },
      reserved: { cpu_units: 1, memory_mb: 1024 },
      running: 1,
      started_at: expect.stringMatching(TIME),
      isolation: { level: expect.stringMatching(/^(namespaces|process|memory)$/), layers: expect.any(Array) },
      heartbeat_at: expect.stringMatching(TIME),
    },
  ]);
  expect(Date.now() - Date.parse(converters[0].heartbeat_at)).toBeLessThan(15_000);
  expect(queues).toEqual([{ cpu_units: 2, memory_mb: 512, depth: 2, oldest_age_seconds: expect.any(Number) }]);
  expect(queues[0].oldest_age_seconds).toBeGreaterThan(0);
  const sum = (name: string) => throughput.reduce((total: number, minute: Json) => total + minute[name], 0);
  const { rows } = await service.pool.query(`select count(*) filter (where status = 'completed')::int as completed,
    count(*) filter (where status = 'failed')::int as failed, max(peak_memory_mb) as peak from job_attempts`);
  const peak = Math.max(...throughput.map(({ peak_memory_mb }: Json) => peak_memory_mb));
  expect({ completed: sum('completed'), failed: sum('failed'), peak }).toEqual(rows[0]);
  const metrics = await (await fetch(`${service.url}/metrics`)).text();
  const converter = converters[0].name;
  expect(metrics.split('\n')).toEqual(
    expect.arrayContaining([
      `sheetmill_capacity_memory_mb{converter="${converter}"} 2048`,
      `sheetmill_reserved_memory_mb{converter="${converter}"} 1024`,
      'sheetmill_queue_depth{cpu_units="2",memory_mb="512"} 2',
      expect.stringMatching(/^sheetmill_peak_memory_mb \d+$/),
    ]),
  );
  expect(Object.keys(throughput[0])).toEqual(['minute', 'completed', 'failed', 'peak_memory_mb']);
  await service.patch(`/jobs/${running.job_id}/cancel`);
  await service.jobDone(first.job_id);
});

test('GET /job-types lists each type with the JSON Schema of its payload', async () => {
  const { items, next_cursor } = await service.get('/job-types');
  expect(next_cursor).toBeNull();
  const types = new Map<string, Json>(items.map((item: Json) => [item.type, item]));
  expect([...types.keys()]).toEqual(
    expect.arrayContaining(['convert', 'convert_range', 'archive', 'checksum', 'sleep']),
  );
  for (const { payload } of items) {
    expect(payload).toMatchObject({ $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'object' });
  }
  expect(types.get('convert')).toMatchObject({ internal: true, trusted: false });
  expect(types.get('sleep')).toMatchObject({
    internal: false,
    trusted: true,
    resource_requirements: { cpu_units: 1, memory_mb: 256 },
    payload: {
      properties: { input: { type: 'number', minimum: 0, maximum: 3600 } },
      required: ['input'],
      additionalProperties: false,
    },
  });
  expect(types.get('checksum').payload.properties.algorithm.enum).toEqual(['sha256', 'sha512', 'sha1', 'md5']);
});

test('an archive contains the pages of an upload, and a checksum is that of its original', async () => {
  const pdf = await makePdf([{ color: RED }, { color: BLUE }]);
  const { body } = await service.upload([['a.pdf', pdf]]);
  const upload = await service.done(body.id);
  const payload = { upload_id: upload.id };
  const [archive, checksum] = await submitDone([
    { type: 'archive', payload },
    { type: 'checksum', payload },
  ]);
  expect(checksum).toMatchObject({
    status: 'completed',
    result: { algorithm: 'sha256', bytes: pdf.length, digest: upload.originals[0].sha256 },
    progress: { done: 1, total: 1 },
    upload_id: null,
  });
  expect(archive).toMatchObject({ status: 'completed', result: { pages: 2, bytes: expect.any(Number) } });
  const path = `${service.folder}/store/${archive.result.path}`;
  const zip = await yauzl.openPromise(path);
  const contents: Buffer[] = [];
  for await (const entry of zip.eachEntry()) {
    expect(entry.fileName).toMatch(/\.png$/);
    contents.push(await buffer(await zip.openReadStreamPromise(entry)));
  }
  const pages: Buffer[] = await Promise.all(upload.pages.map(({ url }: Json) => service.bytes(url)));
  expect(contents.map((content, index) => content.equals(pages[index] as Buffer))).toEqual([true, true]);
});

test('a paused type accepts jobs and starts none until it is resumed', async () => {
  const { body: paused } = await service.post('/job-types/noop/pause');
  expect(paused).toMatchObject({ type: 'noop', paused: true, paused_at: expect.any(String) });
  const { body: job } = await service.post('/jobs', { type: 'noop', concurrency_key: 'acme' });
  expect(job).toMatchObject({ status: 'ready', concurrency_key: 'acme' });
  const { body: other } = await service.post('/jobs', { type: 'reverse', payload: { input: 'ab' } });
  await service.jobDone(other.job_id);
  expect(await service.get(`/jobs/${job.job_id}`)).toMatchObject({ status: 'ready', position_in_queue: 1 });
  const { body: resumed } = await service.post('/job-types/noop/resume');
  expect(resumed).toMatchObject({ paused: false, paused_at: null });
  expect(await service.jobDone(job.job_id)).toMatchObject({ status: 'completed' });
});
