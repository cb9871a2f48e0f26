import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { type ReceivedSpan, startCollector } from '../support/collector.ts';
import { encryptedPdf, makeImage, makePdf, RED } from '../support/files.ts';
import { type Service, startService, until } from '../support/service.ts';

const SERVER = 2;
const CONSUMER = 5;
const ERROR = 2;
/** Spans are sent only at the end of the process. */
const ONLY_AT_THE_END = { OTEL_BSP_SCHEDULE_DELAY: '3600000' };
/** A closed port. */
const NOWHERE = 'http://127.0.0.1:1';

let collector: Awaited<ReturnType<typeof startCollector>>;
let service: Service | undefined;
beforeEach(async () => {
  collector = await startCollector();
});
afterEach(async () => {
  await service?.stop();
  service = undefined;
  await collector.stop();
});

/** The trace of a client, and its `traceparent`. */
function newTrace() {
  const [trace, parent] = [randomBytes(16).toString('hex'), randomBytes(8).toString('hex')];
  return { trace, parent, headers: { traceparent: `00-${trace}-${parent}-01` } };
}

async function traceparents({ pool }: Service, column: string, id: string): Promise<(string | null)[]> {
  const { rows } = await pool.query(`select traceparent from jobs where ${column} = $1 order by id`, [id]);
  return rows.map(({ traceparent }) => traceparent);
}

test('one trace has the request, the sandboxes of its jobs and their pages', async () => {
  service = await startService({
    env: { ...ONLY_AT_THE_END, OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, TASKS: './examples/tasks/index.ts' },
  });
  const client = newTrace();
  // As many pages as make it a job with children.
  const pdf = await makePdf(Array.from({ length: 10 }, () => ({ color: RED })));
  const { body: upload } = await service.upload([['a.pdf', pdf]], {}, client.headers);
  const locked = newTrace();
  const { body: refused } = await service.upload(
    [['b.pdf', encryptedPdf('right')]],
    { password: 'wrong-password' },
    locked.headers,
  );
  const { body: job } = await service.post('/jobs', { type: 'reverse', payload: { input: 'ab' } }, newTrace().headers);
  const [scheduled] = await service.submit([{ type: 'noop' }]);
  await service.done(upload.id);
  await service.done(refused.id);
  await Promise.all([service.jobDone(job.job_id), service.jobDone(scheduled.job_id)]);
  const kept = await traceparents(service, 'upload_id', upload.id);
  await service.stop();
  service = undefined;

  const inTrace = ({ trace }: { trace: string }) => collector.spans.filter((span) => span.trace === trace);
  const children = ({ id }: ReceivedSpan) => collector.spans.filter(({ parent }) => parent === id);
  const [request, ...others] = inTrace(client).filter(({ kind }) => kind === SERVER) as [ReceivedSpan];
  expect(others).toEqual([]);
  expect(request).toMatchObject({
    service: 'sheetmill-api',
    parent: client.parent,
    name: 'POST /uploads',
    attributes: {
      'http.request.method': 'POST',
      'http.route': '/uploads',
      'http.response.status_code': 200,
      'sheetmill.upload': upload.id,
    },
  });
  // Children inherit it.
  expect(kept).toEqual(kept.map(() => `00-${client.trace}-${request.id}-01`));
  const attempts = children(request);
  expect(attempts.map(({ name, attributes }) => [name, attributes['sheetmill.outcome']]).sort()).toEqual([
    ['attempt convert', 'split'],
    ['attempt convert_range', 'completed'],
    ['attempt convert_range', 'completed'],
  ]);
  expect(kept).toHaveLength(attempts.length);
  for (const attempt of attempts) {
    expect(attempt).toMatchObject({
      service: 'sheetmill-converter',
      kind: CONSUMER,
      attributes: { 'sheetmill.upload': upload.id, 'sheetmill.attempt': 1 },
    });
    const [run] = children(attempt) as [ReceivedSpan];
    expect(run).toMatchObject({
      name: 'sandbox run',
      attributes: { 'sheetmill.outcome': expect.any(String), 'sheetmill.peak_memory_mb': expect.any(Number) },
    });
    expect(run.attributes['sheetmill.peak_memory_mb']).toBeGreaterThan(50);
  }
  const events = inTrace(client).flatMap((span) => span.events);
  expect(events.map(({ attributes }) => attributes.page).sort()).toEqual([1, 10, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(events).toEqual(
    events.map(() => ({
      name: 'page',
      attributes: { page: expect.any(Number), status: 'completed', engine: 'pdfium' },
    })),
  );

  // Failed spans are marked, with the public error.
  const failed = inTrace(locked).filter(({ status }) => status.code === ERROR);
  expect(failed.map(({ name }) => name).sort()).toEqual(['attempt convert', 'sandbox run']);
  const document = inTrace(locked).find(({ name }) => name === 'attempt convert');
  expect(document?.attributes['sheetmill.outcome']).toBe('failed');

  // Without a traceparent the request begins a new trace, and its job is part of it.
  const root = collector.spans.find(({ parent, attributes }) => parent === '' && attributes['http.route'] === '/jobs');
  expect(children(root as ReceivedSpan)).toMatchObject([
    { name: 'attempt noop', attributes: { 'sheetmill.job': scheduled.job_id, 'sheetmill.outcome': 'completed' } },
  ]);
  expect(JSON.stringify(collector.spans)).not.toContain('wrong-password');
});

test('without a collector nothing is traced, and the SDK is not loaded', async () => {
  service = await startService({ env: { TASKS: './examples/tasks/index.ts' } });
  const { body: upload } = await service.upload([['a.png', await makeImage()]], {}, newTrace().headers);
  const { body: job } = await service.post('/jobs', { type: 'noop' }, newTrace().headers);
  await service.done(upload.id);
  await service.jobDone(job.job_id);
  expect(await traceparents(service, 'upload_id', upload.id)).toEqual([null]);
  expect(await traceparents(service, 'id', job.job_id)).toEqual([null]);

  const code = `
    import { createRequire } from 'node:module';
    import { parseConfig } from './runtime/config.ts';
    import { createLogger } from './runtime/log.ts';
    import { startTracing } from './runtime/tracing.ts';
    await startTracing('test', parseConfig(process.env), createLogger('silent', {}));
    const loaded = Object.keys(createRequire(process.cwd() + '/').cache).map((file) => /@opentelemetry.([^/]*)/.exec(file)?.[1]);
    console.log(JSON.stringify([...new Set(loaded)].filter(Boolean)));`;
  const packagesWith = async (env: Record<string, string>) =>
    JSON.parse(
      (
        await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code], {
          env: { PATH: process.env.PATH, ...env },
        })
      ).stdout,
    );
  expect(await packagesWith({})).toEqual(['api']);
  expect(await packagesWith({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: NOWHERE })).toContain('sdk-trace-node');
});

test('a collector that is down adds one line to the log of each process', async () => {
  const env = {
    OTEL_EXPORTER_OTLP_ENDPOINT: NOWHERE,
    OTEL_EXPORTER_OTLP_TIMEOUT: '200',
    OTEL_BSP_SCHEDULE_DELAY: '20',
    TASKS: './examples/tasks/index.ts',
    LOG_LEVEL: 'warn',
  };
  service = await startService({ keepLog: true, env });
  for (let times = 0; times < 5; times++) {
    const [job] = await service.submit([{ type: 'noop' }]);
    await service.jobDone(job.job_id);
  }
  const { log } = service;
  const messages = () =>
    log()
      .match(/^.*$/gm)
      ?.flatMap((line) => (line === '' ? [] : [JSON.parse(line)])) ?? [];
  await until(async () => messages().length >= 2);
  await service.stop();
  service = undefined;
  const lines = messages().filter(({ msg }) => msg !== 'the last spans were not sent');
  expect(lines.map(({ process, msg }) => [process, msg]).sort()).toEqual([
    ['api', 'spans not sent'],
    ['converter', 'spans not sent'],
  ]);
});
