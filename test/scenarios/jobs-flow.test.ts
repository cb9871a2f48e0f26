import type { ChildProcess } from 'node:child_process';
import { hostname } from 'node:os';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { overlap, type Run, runsOf } from './attempts.ts';

const PRIORITIES = ['critical', 'high', 'normal', 'low'];

/** The scenarios of jobs that go well: order, dependencies, and a thousand at once. */
let service: Service;
let converter: ChildProcess | undefined;
beforeAll(async () => {
  service = await startService({
    converters: 0,
    env: { TASKS: './examples/tasks/index.ts', CAPACITY_CPU: '4', CAPACITY_MEMORY_MB: '2048' },
  });
});
afterEach(async () => {
  await expectNothingLeft(service).finally(() => converter && service.end(converter));
});
afterAll(() => service.stop());

/** A job that takes a whole converter until it is cancelled. */
async function block(cpuUnits: number): Promise<{ end(): Promise<void>; id: string }> {
  const { job_id: id } = await service.submit({
    type: 'sleep',
    priority: 'critical',
    payload: { input: 3_000 },
    resource_requirements: { cpu_units: cpuUnits },
  });
  return {
    id,
    async end() {
      expect((await service.patch(`/jobs/${id}/cancel`)).status).toBe(200);
    },
  };
}

async function statusesOf(id: string): Promise<string[]> {
  const { items } = await service.get(`/jobs/${id}/logs`);
  return items.map(({ message }: Json) => message).filter((message: string) => /^\w+$/.test(message));
}

test('three jobs that wait for a busy converter start by priority: critical, normal, low', async () => {
  converter = await service.startConverter({ CAPACITY_CPU: '1' });
  const blocker = await block(1);
  await service.jobIn('running', blocker.id);

  const normal = await service.submit({
    type: 'prime',
    payload: { input: 1_000 },
    resource_requirements: { memory_mb: 300 },
  });
  const critical = await service.submit({ type: 'sleep', priority: 'critical', payload: { input: 0.05 } });
  const low = await service.submit({ type: 'reverse', priority: 'low', payload: { input: 'abc' } });
  expect([normal, critical, low].map(({ position_in_queue }) => position_in_queue)).toEqual([1, 1, 3]);
  const waiting = [critical, normal, low];
  for (const [index, { job_id }] of waiting.entries()) {
    expect(await service.get(`/jobs/${job_id}`)).toMatchObject({
      status: 'ready',
      position_in_queue: index + 1,
      started_at: null,
      attempts: [],
    });
  }

  await blocker.end();
  const done = await Promise.all(waiting.map(({ job_id }) => service.jobDone(job_id)));
  expect(done.map(({ status, position_in_queue }) => [status, position_in_queue])).toEqual(
    Array(3).fill(['completed', null]),
  );
  const [first, second, third] = done.map((job) => runsOf([job])[0]) as [Run, Run, Run];
  expect(first.to).toBeLessThanOrEqual(second.from);
  expect(second.to).toBeLessThanOrEqual(third.from);

  const name = `${hostname()}-${converter?.pid}`;
  const common = { attempt: 1, status: 'completed', converter: name, cpu_units: 1, error: null };
  expect(done.map(({ attempts }) => attempts)).toMatchObject([
    [{ ...common, memory_mb: 256, peak_memory_mb: null }], // trusted: it has no memory reservation
    [{ ...common, memory_mb: 384, peak_memory_mb: expect.any(Number) }], // 300 MB asked for
    [{ ...common, memory_mb: 256, peak_memory_mb: null }],
  ]);
  expect(done.map(({ result }) => result)).toEqual([{ slept_seconds: 0.05 }, { output: 7919 }, { output: 'cba' }]);
});

test('jobs that wait for each other in a chain run in that order, blocked first and then ready', async () => {
  const answers = await service.submit([
    { job_id: 'generate_report_001', type: 'generate_report', depends_on: ['process_data_001'] },
    { job_id: 'fetch_data_001', type: 'data_fetch', priority: 'critical' },
    { job_id: 'process_data_001', type: 'data_processing', depends_on: ['fetch_data_001'] },
  ]);
  expect(answers.map(({ status }: Json) => status)).toEqual(['blocked', 'ready', 'blocked']);
  expect(await service.get('/jobs/generate_report_001')).toMatchObject({
    status: 'blocked',
    position_in_queue: 2,
    depends_on: ['process_data_001'],
  });

  // Takes the converter between the first and the second, which can then be seen ready.
  const blocker = await block(1);
  converter = await service.startConverter({ CAPACITY_CPU: '1' });
  await service.jobIn('running', blocker.id);
  expect(await service.get('/jobs/fetch_data_001')).toMatchObject({ status: 'completed' });
  expect(await service.get('/jobs/process_data_001')).toMatchObject({ status: 'ready', position_in_queue: 1 });
  expect(await service.get('/jobs/generate_report_001')).toMatchObject({ status: 'blocked', position_in_queue: 2 });
  await blocker.end();

  const ids = ['fetch_data_001', 'process_data_001', 'generate_report_001'];
  const done = await Promise.all(ids.map((id) => service.jobDone(id)));
  expect(done.map(({ status }) => status)).toEqual(Array(3).fill('completed'));
  const [fetched, processed, reported] = done.map((job) => runsOf([job])[0]) as [Run, Run, Run];
  expect(processed.from).toBeGreaterThanOrEqual(fetched.to);
  expect(reported.from).toBeGreaterThanOrEqual(processed.to);
  expect(await statusesOf('fetch_data_001')).toEqual(['ready', 'running', 'completed']);
  expect(await statusesOf('process_data_001')).toEqual(['blocked', 'ready', 'running', 'completed']);
  expect(await statusesOf('generate_report_001')).toEqual(['blocked', 'ready', 'running', 'completed']);
});

test('when the first of a chain fails permanently, the others fail with dependency_failed and never start', async () => {
  converter = await service.startConverter();
  await service.submit([
    { job_id: 'fetch_data_002', type: 'fail', payload: { times: 9 }, retry_config: { max_attempts: 1 } },
    { job_id: 'process_data_002', type: 'data_processing', depends_on: ['fetch_data_002'] },
    { job_id: 'generate_report_002', type: 'generate_report', depends_on: ['process_data_002'] },
  ]);
  const [fetched, processed, reported] = await Promise.all(
    ['fetch_data_002', 'process_data_002', 'generate_report_002'].map((id) => service.jobDone(id)),
  );
  expect(fetched).toMatchObject({ status: 'failed', error: { code: 'task_failed' } });
  const stopped = { status: 'failed', started_at: null, attempts: [] };
  expect(processed).toMatchObject({
    ...stopped,
    error: { code: 'dependency_failed', message: 'its prerequisite fetch_data_002 has failed' },
  });
  expect(reported).toMatchObject({
    ...stopped,
    error: { code: 'dependency_failed', message: 'its prerequisite process_data_002 has failed' },
  });
  expect(await statusesOf('process_data_002')).toEqual(['blocked']);
});

test('a graph runs in topological order, its roots side by side and its leaves side by side', async () => {
  converter = await service.startConverter();
  const leaves = ['trader_report', 'risk_report', 'send_notifications'];
  await service.submit([
    { job_id: 'trader_report', type: 'report_generation', depends_on: ['analyze_market'] },
    { job_id: 'risk_report', type: 'report_generation', depends_on: ['analyze_market'] },
    { job_id: 'send_notifications', type: 'send_email', depends_on: ['analyze_market'] },
    { job_id: 'analyze_market', type: 'data_processing', depends_on: ['fetch_prices', 'fetch_volumes'] },
    { job_id: 'fetch_prices', type: 'data_fetch' },
    { job_id: 'fetch_volumes', type: 'data_export' },
  ]);
  const ids = ['fetch_prices', 'fetch_volumes', 'analyze_market', ...leaves];
  const done = await Promise.all(ids.map((id) => service.jobDone(id)));
  expect(done.map(({ status }) => status)).toEqual(Array(6).fill('completed'));
  const [prices, volumes, market, ...ends] = done.map((job) => runsOf([job])[0]) as [Run, Run, Run, ...Run[]];
  expect(overlap(prices, volumes)).toBe(true);
  expect(market.from).toBeGreaterThanOrEqual(Math.max(prices.to, volumes.to));
  for (const end of ends) expect(end.from).toBeGreaterThanOrEqual(market.to);
  const latest = Math.max(...ends.map(({ from }) => from));
  for (const end of ends) expect(end.to).toBeGreaterThan(latest);
});

test('a cycle in a batch is refused with the cycle in the answer, and nothing of the batch is stored', async () => {
  const batch = [
    { job_id: 'job_a', type: 'noop', depends_on: ['job_c'] },
    { job_id: 'bystander', type: 'noop' },
    { job_id: 'job_b', type: 'noop', depends_on: ['job_a'] },
    { job_id: 'job_c', type: 'noop', depends_on: ['job_b'] },
  ];
  const { rows: before } = await service.pool.query('select count(*) from jobs');
  for (const jobs of [batch, batch.map((job) => ({ ...job, type: 'looked at later', payload: 1 }))]) {
    const { status, headers, body } = await service.post('/jobs', jobs);
    expect([status, headers.get('content-type')]).toEqual([422, expect.stringMatching('application/problem.json')]);
    expect(body).toMatchObject({
      status: 422,
      code: 'dependency_cycle',
      cycle: ['job_a', 'job_c', 'job_b', 'job_a'],
      detail: expect.stringContaining('job_a -> job_c -> job_b -> job_a'),
    });
  }
  const { body: alone } = await service.post('/jobs', { job_id: 'self', type: 'noop', depends_on: ['self'] });
  expect(alone).toMatchObject({ code: 'dependency_cycle', cycle: ['self', 'self'] });
  for (const id of ['job_a', 'job_b', 'job_c', 'bystander', 'self']) {
    expect([id, (await service.send('GET', `/jobs/${id}`)).status]).toEqual([id, 404]);
  }
  const { rows: after } = await service.pool.query('select count(*) from jobs');
  expect(after).toEqual(before);
});

test('a thousand jobs are accepted as one batch, started by priority, and all completed', async () => {
  const batch = Array.from({ length: 1_000 }, (_, index) => ({
    job_id: `thousand-${index}`,
    type: 'noop',
    priority: PRIORITIES[index % 4],
    payload: { index },
  }));
  const answers = await service.submit(batch);
  expect(answers.map(({ job_id, priority, payload }: Json) => ({ job_id, type: 'noop', priority, payload }))).toEqual(
    batch,
  );
  // A low job that came before the others stands behind all of theirs.
  const last = (await service.get('/jobs/thousand-3')).position_in_queue;
  expect(last).toBeGreaterThan(750);

  converter = await service.startConverter({ CAPACITY_MEMORY_MB: '8192' });
  await until(async () => (await service.get('/jobs?limit=1&status=ready')).items.length === 0, 40_000);
  await until(async () => (await service.get('/jobs?limit=1&status=running')).items.length === 0);
  const seen = new Map<string, Json>();
  for (let cursor = ''; ; ) {
    const { items, next_cursor } = await service.get(`/jobs?type=noop&limit=200${cursor}`);
    for (const job of items) {
      expect([job.job_id, job.status, seen.has(job.job_id)]).toEqual([job.job_id, 'completed', false]);
      seen.set(job.job_id, job);
    }
    if (next_cursor === null) break;
    cursor = `&cursor=${next_cursor}`;
  }
  expect([...seen.keys()].sort()).toEqual(batch.map(({ job_id }) => job_id).sort());
  const starts = PRIORITIES.map((priority) =>
    [...seen.values()].filter((job) => job.priority === priority).map(({ started_at }) => Date.parse(started_at)),
  );
  for (const [index, later] of starts.slice(1).entries()) {
    expect(Math.min(...later)).toBeGreaterThanOrEqual(Math.max(...(starts[index] as number[])));
  }
  const { rows } = await service.pool.query(
    `select count(*)::int, max(attempt)::int from job_attempts where job_id like 'thousand-%' and status = 'completed'`,
  );
  expect(rows).toEqual([{ count: 1_000, max: 1 }]);
});
