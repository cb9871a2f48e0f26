import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { readMetrics } from '../../../api/operations/metrics.ts';
import * as schema from '../../../db/schema.ts';
import { processOf } from '../../scenarios/processes.ts';
import { makeImage, makePdf, RED } from '../../support/files.ts';
import { startReceiver } from '../../support/receiver.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../../support/service.ts';

let service: Service;
let receiver: Awaited<ReturnType<typeof startReceiver>>;
beforeAll(async () => {
  receiver = await startReceiver((path, before, response) => {
    if (path === '/fails-once') response.writeHead(before < 1 ? 503 : 200).end();
    else response.writeHead(path === '/gone' ? 410 : 204).end();
  });
  service = await startService({
    keepLog: true,
    env: {
      TASKS: './test/scenarios/memory-filling-tasks.ts',
      METRICS_PORT: '0',
      CAPACITY_CPU: '2',
      CAPACITY_MEMORY_MB: '2048',
    },
  });
});
afterAll(async () => {
  try {
    await expectNothingLeft(service);
  } finally {
    await Promise.all([service.stop(), receiver.stop()]);
  }
});

type Labels = Record<string, string | number>;

/** Reads the metrics of a process: `of` gives the series with a name and labels, and `sum` adds their values. */
async function read(url: string) {
  const response = await fetch(`${url}/metrics`);
  expect([response.status, response.headers.get('content-type')]).toEqual([
    200,
    expect.stringMatching(/^text\/plain; version=0\.0\.4; charset=utf-8$/),
  ]);
  const series = (await response.text()).split('\n').flatMap((line) => {
    const [, name, labels = '', value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (name === undefined || line.startsWith('#')) return [];
    const read = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text]));
    return [{ name, labels: read, value: Number(value) }];
  });
  const of = (name: string, labels: Labels = {}) =>
    series.filter(
      (one) => one.name === name && Object.entries(labels).every(([key, to]) => one.labels[key] === `${to}`),
    );
  const sum = (name: string, labels?: Labels) => of(name, labels).reduce((total, { value }) => total + value, 0);
  return { of, sum };
}
const ofApi = () => read(service.url);
const ofConverter = () => read(String(service.metricsUrls[0]));

const runs = (type: string, outcome: string) => ['sheetmill_job_run_seconds_count', { type, outcome }] as const;
const once = { retry_config: { max_attempts: 1 } };
const endless = { type: 'balloon', payload: { megabytes: 100 } };

test('metrics count uploads, jobs, pages, sandboxes and webhooks', async () => {
  const pdf = await makePdf([{ color: RED }, { color: RED }]);
  const png = await makeImage();
  const key = { 'Idempotency-Key': 'first-upload' };
  const upload = () => service.upload([['a.pdf', pdf]], { notify_url: receiver.url('/fails-once') }, key);
  const first = await upload();
  // A repeat is not counted.
  expect((await upload()).body).toEqual(first.body);
  const second = await service.upload([['a.png', png]], { notify_url: receiver.url('/gone') });
  expect((await service.upload([['a.txt', Buffer.from('text')]])).status).toBe(415);
  await Promise.all([service.done(first.body.id), service.done(second.body.id)]);

  const [hash, leak, stuck, killed] = await service.submit([
    { type: 'checksum', payload: { upload_id: first.body.id }, notify_url: receiver.url('/all-well') },
    { type: 'leak_heap', ...once },
    { type: 'stuck', timeout_seconds: 1, ...once },
    { ...endless, ...once },
  ]);
  const pid = await until(async () => {
    const { items } = await service.get(`/jobs/${killed.job_id}/logs`);
    const full = items.find(({ message }: Json) => message === 'full');
    return full && processOf(Number(service.converters[0]?.pid), full.data);
  });
  process.kill(pid, 'SIGKILL');
  for (const { job_id } of [hash, leak, stuck, killed]) await service.jobDone(job_id, 60_000);

  // One job reserves all CPU units, so that two others wait until it is cancelled.
  const [all] = await service.submit([{ ...endless, resource_requirements: { cpu_units: 2, memory_mb: 512 } }]);
  await service.jobIn('running', all.job_id);
  const waiting: Json[] = await service.submit([1, 2].map(() => ({ type: 'look_for', payload: { pids: [] } })));
  const [full, queue] = await Promise.all([ofConverter(), ofApi()]);
  expect(
    full
      .of('sheetmill_sandbox_deaths_total')
      .map(({ labels, value }) => [labels.how, value])
      .sort(),
  ).toEqual([
    ['killed', 1],
    ['outgrown', 1],
    ['stopped', 1],
  ]);
  for (const [part, reserved, free] of [
    ['cpu_units', 2, 0],
    ['memory_mb', 512, 1536],
  ] as const) {
    expect(full.sum(`sheetmill_converter_${part}`, { state: 'reserved' })).toBe(reserved);
    expect(full.sum(`sheetmill_converter_${part}`, { state: 'free' })).toBe(free);
  }
  expect(queue.of('sheetmill_queue_depth')).toEqual([
    { name: 'sheetmill_queue_depth', labels: { cpu_units: '1', memory_mb: '256' }, value: 2 },
  ]);
  expect(queue.sum('sheetmill_queue_oldest_seconds', { cpu_units: 1, memory_mb: 256 })).toBeGreaterThan(0);
  await service.patch(`/jobs/${all.job_id}/cancel`);
  for (const { job_id } of waiting) await service.jobDone(job_id);
  await until(async () => (await ofConverter()).sum(...runs('balloon', 'lost')) === 1);

  const converter = await ofConverter();
  expect(
    converter
      .of('sheetmill_job_run_seconds_count')
      .map(({ labels, value }) => [labels.type, labels.outcome, value])
      .sort(),
  ).toEqual([
    ['balloon', 'failed', 1],
    ['balloon', 'lost', 1],
    ['checksum', 'completed', 1],
    ['convert', 'completed', 2],
    ['leak_heap', 'outgrown', 1],
    ['look_for', 'completed', 2],
    ['stuck', 'failed', 1],
  ]);
  expect(converter.sum('sheetmill_job_run_seconds_sum', { type: 'stuck' })).toBeGreaterThan(1);
  const { rows: attempts } = await service.pool.query(`
    select type, count(*)::int as attempts, count(peak_memory_mb)::int as measured, sum(peak_memory_mb)::int as peak, job_attempts.memory_mb
    from job_attempts join jobs on jobs.id = job_id group by type, job_attempts.memory_mb`);
  for (const { type } of attempts) {
    const claimed = attempts.filter((one) => one.type === type).reduce((total, one) => total + one.attempts, 0);
    expect([type, converter.sum('sheetmill_job_wait_seconds_count', { type })]).toEqual([type, claimed]);
  }
  expect(converter.sum('sheetmill_job_wait_seconds_sum', { type: 'look_for' })).toBeGreaterThan(0);
  for (const [reserved_mb, group] of Map.groupBy(attempts, ({ memory_mb }) => memory_mb)) {
    const total = (of: 'measured' | 'peak') => group.reduce((sum, one) => sum + (one[of] ?? 0), 0);
    const labels = { reserved_mb };
    expect([reserved_mb, converter.sum('sheetmill_attempt_peak_memory_mb_count', labels)]).toEqual([
      reserved_mb,
      total('measured'),
    ]);
    expect(converter.sum('sheetmill_attempt_peak_memory_mb_sum', labels)).toBe(total('peak'));
  }
  expect(
    converter
      .of('sheetmill_pages_total')
      .map(({ labels, value }) => [labels.engine, labels.status, value])
      .sort(),
  ).toEqual([
    ['pdfium', 'completed', 2],
    ['sharp', 'completed', 1],
  ]);
  expect(converter.sum('sheetmill_sandbox_starts_total')).toBeGreaterThanOrEqual(4);
  expect(converter.sum('sheetmill_converter_cpu_units', { state: 'free' })).toBe(2);
  expect(converter.of('sheetmill_postgres_connections')).toHaveLength(3);
  expect(converter.of('sheetmill_retention_overdue_seconds').map(({ labels, value }) => [labels.kind, value])).toEqual([
    ['uploads', 0],
    ['jobs', 0],
    ['events', 0],
  ]);
  expect((await fetch(`${service.metricsUrls[0]}/health/live`)).status).toBe(200);
  expect((await fetch(`${service.metricsUrls[0]}/`)).status).toBe(404);

  const api = await until(async () => {
    const now = await ofApi();
    return now.sum('sheetmill_webhook_tries_total') === 4 && now;
  });
  expect(
    api
      .of('sheetmill_webhook_tries_total')
      .map(({ labels, value }) => [labels.outcome, value])
      .sort(),
  ).toEqual([
    ['delivered', 2],
    ['failed', 1],
    ['given_up', 1],
  ]);
  expect(api.sum('sheetmill_uploads_accepted_total')).toBe(2);
  expect(api.sum('sheetmill_received_bytes_total')).toBe(pdf.length + png.length);
  expect(api.sum('sheetmill_postgres_connections', { state: 'waiting' })).toBe(0);
  expect(api.sum('sheetmill_postgres_connections', { state: 'idle' })).toBeGreaterThan(0);
});

test('requests are counted by the pattern of their route, so that clients cannot create series', async () => {
  const uuids = Array.from({ length: 5 }, () => crypto.randomUUID());
  for (const id of uuids) expect((await service.send('GET', `/uploads/${id}/status`)).status).toBe(404);
  const unknown = ['/nothing', '/uploads/1/2/3/4', '/%41', '/docs/nothing.js', '/%ZZ'];
  for (const route of unknown) expect((await fetch(service.url + route)).ok).toBe(false);
  // This client disconnects before the answer.
  const [held] = await service.submit([{ ...endless }]);
  const leaving = new AbortController();
  const asked = fetch(`${service.url}/jobs/${held.job_id}`, { headers: { Prefer: 'wait=60' }, signal: leaving.signal });
  await service.jobIn('running', held.job_id);
  leaving.abort();
  await expect(asked).rejects.toThrow();
  const seconds = 'sheetmill_http_request_seconds_count';
  const api = await until(async () => {
    const now = await ofApi();
    return now.sum(seconds, { route: '/jobs/:id', status: 'aborted' }) === 1 && now;
  });
  await service.patch(`/jobs/${held.job_id}/cancel`);
  expect(api.sum(seconds, { method: 'GET', route: '/uploads/:id/status', status: 404 })).toBe(5);
  expect(api.sum(seconds, { route: 'none' })).toBe(unknown.length);
  const series = JSON.stringify(api.of(seconds));
  for (const word of [...uuids, 'nothing', held.job_id]) expect(series).not.toContain(word);
});

test('an API without Postgres serves the metrics of its process', async () => {
  const unreachable = new pg.Pool({ host: '127.0.0.1', port: 1 });
  const text = await readMetrics(drizzle({ client: unreachable, schema }));
  expect(text).toContain('sheetmill_uploads_accepted_total 0');
  expect(text).not.toContain('sheetmill_queue_depth');
  await unreachable.end();
});

test('a converter whose METRICS_PORT is in use exits with the reason', async () => {
  const { port } = new URL(String(service.metricsUrls[0]));
  await expect(service.startConverter({ METRICS_PORT: port })).rejects.toThrow('the converter ended with 1');
  const reason = new RegExp(`^sheetmill: METRICS_PORT=${port}: listen EADDRINUSE.*$`, 'm');
  await until(async () => reason.test(service.log()));
});
