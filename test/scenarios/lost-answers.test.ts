import { cloneDatabase } from '../support/database.ts';
import { makeImage } from '../support/files.ts';
import { freePort } from '../support/programs.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { startWay } from '../support/tcp-proxy.ts';

/** Transactions that Postgres commits, and whose answers get lost: the connection breaks after the commit. */
let service: Service;
let database: Awaited<ReturnType<typeof cloneDatabase>>;
let toApi: Awaited<ReturnType<typeof startWay>>;
let toConverter: Awaited<ReturnType<typeof startWay>>;
let metricsUrl: string;
beforeAll(async () => {
  database = await cloneDatabase();
  [toApi, toConverter] = await Promise.all([startWay(database.url), startWay(database.url)]);
  for (const way of [toApi, toConverter]) way.open();
  service = await startService({
    converters: 0,
    databaseUrl: database.url,
    env: { TASKS: './test/scenarios/crashing-tasks.ts', DATABASE_URL: toApi.url, LOG_LEVEL: 'fatal' },
  });
  const METRICS_PORT = String(await freePort());
  metricsUrl = `http://127.0.0.1:${METRICS_PORT}/metrics`;
  await service.startConverter({ DATABASE_URL: toConverter.url, METRICS_PORT, CAPACITY_CPU: '2' });
});
afterEach(() => expectNothingLeft(service));
afterAll(async () => {
  await service.stop();
  await Promise.all([toApi.stop(), toConverter.stop()]);
  await database.drop();
});

const statusesOf = ({ attempts }: Json) => attempts.map(({ status }: Json) => status);

test('a job whose claim was not answered is handed back within seconds, and runs', async () => {
  const lost = toConverter.loseAnswer('commit', 'insert into job_attempts');
  const { job_id } = await service.submit({ type: 'noop', retry_config: { max_attempts: 1 } });
  await lost;
  const began = performance.now();
  const done = await service.jobDone(job_id);
  expect(performance.now() - began).toBeLessThan(8_000);
  expect([done.status, statusesOf(done)]).toEqual(['completed', ['returned', 'completed']]);
  const { converters } = await service.get('/system');
  expect(converters).toHaveLength(1);
});

test("a settlement that was not answered counts as the attempt's own", async () => {
  const lost = toConverter.loseAnswer('commit', 'update job_attempts');
  const { job_id } = await service.submit({ type: 'noop' });
  await lost;
  const done = await service.jobDone(job_id);
  expect([done.status, statusesOf(done)]).toEqual(['completed', ['completed']]);
  const metrics = await until(async () => {
    const text = await (await fetch(metricsUrl)).text();
    // The events of this job and the previous one.
    return /^sheetmill_job_run_seconds_count\{type="noop",outcome="completed"\} 2$/m.test(text) && text;
  });
  expect(metrics).not.toContain('outcome="lost"');
});

test('an upload whose commit was not answered keeps its files, and its key gives the first answer', async () => {
  const files: [string, Uint8Array][] = [['a.png', await makeImage()]];
  const lost = toApi.loseAnswer('commit', 'insert into "uploads"');
  const key = { 'Idempotency-Key': 'upload-once' };
  const first = await service.upload(files, {}, key);
  await lost;
  expect(first).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  expect(Number(first.headers.get('Retry-After'))).toBeGreaterThan(0);
  const again = await service.upload(files, {}, key);
  expect(again.status).toBe(200);
  expect(await service.bytes(again.body.originals[0].url)).toEqual(files[0]?.[1]);
  expect((await service.done(again.body.id)).status).toBe('completed');
  const { items } = await service.get('/uploads');
  expect(items.map(({ id }: Json) => id)).toEqual([again.body.id]);
});

test('a batch of jobs whose commit was not answered is stored once, under its key', async () => {
  const jobs = [
    { job_id: 'one', type: 'noop' },
    { type: 'noop', depends_on: ['one'] },
  ];
  const lost = toApi.loseAnswer('commit', 'insert into "jobs"');
  const key = { 'Idempotency-Key': 'jobs-once' };
  expect(await service.post('/jobs', jobs, key)).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  await lost;
  const { status, body } = await service.post('/jobs', jobs, key);
  expect(status).toBe(201);
  for (const { job_id } of body.items) expect(statusesOf(await service.jobDone(job_id))).toEqual(['completed']);
  const { items } = await service.get('/jobs?type=noop');
  expect(items.filter(({ depends_on }: Json) => depends_on.includes('one'))).toHaveLength(1);
});

test('a bulk retry whose commit was not answered can be repeated, and retries each job once', async () => {
  const { job_id } = await service.submit({ type: 'fail', payload: { times: 1 }, retry_config: { max_attempts: 1 } });
  expect((await service.jobDone(job_id)).status).toBe('failed');
  const lost = toApi.loseAnswer('commit', 'update jobs set');
  expect(await service.post('/jobs/retry', { status: 'failed' })).toMatchObject({ status: 503 });
  await lost;
  expect((await service.post('/jobs/retry', { status: 'failed' })).status).toBe(200);
  const done = await service.jobDone(job_id);
  expect([done.status, statusesOf(done)]).toEqual(['completed', ['failed', 'completed']]);
});
