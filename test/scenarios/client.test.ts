import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { type Client, collect, createClient, ProblemError, UnreachableError } from '../../cli/client.ts';
import { BLUE, makeImage, makePdf, pixelAt, RED } from '../support/files.ts';
import { expectNothingLeft, type Service, startService, until } from '../support/service.ts';

let service: Service;
let client: Client;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-client-'));
  // A fixed port lets clients reach the restarted service.
  service = await startService({ env: { PORT: String(await freePort()), TASKS: './examples/tasks/index.ts' } });
  client = createClient({ url: `${service.url}/` });
});
afterEach(() => expectNothingLeft(service));
afterAll(async () => {
  await service.stop();
  await rm(folder, { recursive: true });
});

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  await once(probe.close(), 'close');
  return port;
}

/** The error of a call. */
async function problem(call: Promise<unknown>): Promise<ProblemError> {
  const error = await call.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(ProblemError);
  return error;
}

const png = async () => new File([new Uint8Array(await makeImage())], 'a.png');

test('an upload of a path and of bytes is created, converted, downloaded and deleted', async () => {
  const pdf = await makePdf([{ color: RED }, { color: BLUE }]);
  await writeFile(path.join(folder, 'two "pages" ä.pdf'), pdf);
  const { id, status } = await client.uploads.create([path.join(folder, 'two "pages" ä.pdf'), await png()], {
    dpi: 72,
  });
  expect(status).toBe('queued');
  const reported: number[] = [];
  const upload = await client.uploads.done(id, { onStatus: ({ progress }) => reported.push(progress.pages_done) });
  expect(upload).toMatchObject({ status: 'completed', progress: { pages_done: 3, pages_total: 3 } });
  expect(upload.originals.map(({ filename }) => filename)).toEqual(['two "pages" ä.pdf', 'a.png']);
  expect(reported.at(-1)).toBe(3);
  expect(await client.uploads.status(id)).toMatchObject({ id, done: true });
  expect(await collect(client.uploads.pages(id))).toEqual(upload.pages);
  expect(await collect(client.uploads.pages(id, { limit: 1 }))).toEqual(upload.pages);
  expect((await client.uploads.originals(id)).items).toEqual(upload.originals);

  const file = path.join(folder, 'saved.png');
  await client.uploads.page(id, 1, 2).save(file);
  expect((await pixelAt(await readFile(file), 100, 200)).slice(0, 3)).toEqual(BLUE);
  expect(await buffer(await client.uploads.original(id, 1).stream())).toEqual(pdf);
  const missing = await problem(client.uploads.page(id, 1, 3).save(path.join(folder, 'none.png')));
  expect(missing.status).toBe(404);
  expect((await readdir(folder)).sort()).toEqual(['saved.png', 'two "pages" ä.pdf']);

  await client.uploads.delete(id);
  const gone = await problem(client.uploads.get(id));
  expect(gone).toMatchObject({ status: 404, code: 'not_found', detail: `upload ${id} was not found` });
  expect(gone.request_id).toMatch(/^[\da-f-]{36}$/);
});

test('a list returns every item once', async () => {
  const jobs = await client.jobs.batch(Array.from({ length: 5 }, () => ({ type: 'noop', priority: 'low' as const })));
  await Promise.all(jobs.map(({ job_id }) => client.jobs.done(job_id)));
  const listed = await collect(client.jobs.list({ type: 'noop', limit: 2 }));
  expect(listed.map(({ job_id }) => job_id).sort()).toEqual(jobs.map(({ job_id }) => job_id).sort());

  const ids = [];
  for (let count = 0; count < 3; count++) ids.push((await client.uploads.create(await png())).id);
  for (const id of ids) await client.uploads.done(id);
  expect((await collect(client.uploads.list({ limit: 1 }))).map(({ id }) => id)).toEqual(ids.toReversed());
});

test('a job is submitted, followed, cancelled and retried', async () => {
  const job = await client.jobs.submit({ type: 'data_export', job_id: 'followed' });
  const statuses: (string | null)[] = [];
  for await (const { status } of client.jobs.stream({ job_id: job.job_id, after: 0 })) {
    if (statuses.at(-1) !== status) statuses.push(status);
    if (status === 'completed') break;
  }
  expect(statuses).toEqual(['ready', 'running', 'completed']);
  expect(await client.jobs.done('followed')).toMatchObject({ status: 'completed', attempts: [{ attempt: 1 }] });
  const lines = await collect(client.jobs.logs('followed', { limit: 2 }));
  expect(lines.map(({ message }) => message)).toEqual(expect.arrayContaining(['data_export begins', 'completed']));

  const { job_id } = await client.jobs.submit({ type: 'noop', run_at: new Date(Date.now() + 3_600_000).toISOString() });
  expect(await client.jobs.cancel(job_id)).toMatchObject({ status: 'cancelled' });
  expect(await client.jobs.retryAll({ status: 'cancelled', type: 'noop' })).toBe(1);
  expect(await client.jobs.cancel(job_id)).toMatchObject({ status: 'cancelled' });
  expect(await problem(client.jobs.cancel(job_id))).toMatchObject({ status: 409, code: 'conflict' });
});

test('schedules, job types, health, system and metrics are read', async () => {
  await client.schedules.put('client', { cron: '0 3 * * *', job: { type: 'noop' } });
  expect((await collect(client.schedules.list())).map(({ name, cron }) => [name, cron])).toEqual([
    ['client', '0 3 * * *'],
  ]);
  expect(await client.schedules.get('client')).toMatchObject({ name: 'client', last_run_at: null });
  expect(await client.schedules.run('client')).toMatchObject({ type: 'noop' });
  await client.schedules.delete('client');
  expect(await collect(client.schedules.list())).toEqual([]);
  expect((await collect(client.jobTypes())).map(({ type }) => type)).toContain('checksum');
  expect(await client.health.ready()).toMatchObject({ status: 'ok' });
  expect((await client.system()).converters).toHaveLength(1);
  expect(await client.metrics()).toContain('sheetmill_capacity_memory_mb');
});

test('a refused call throws a ProblemError with the whole problem', async () => {
  const text = new File(['only text'], 'a.pdf');
  expect(await problem(client.uploads.create(text))).toMatchObject({ status: 415, code: 'unsupported_media_type' });
  await expect(client.uploads.create('nowhere.pdf')).rejects.toThrow(/^nowhere.pdf cannot be read: ENOENT/);
  const cycle = await problem(
    client.jobs.batch([
      { type: 'noop', job_id: 'hen', depends_on: ['egg'] },
      { type: 'noop', job_id: 'egg', depends_on: ['hen'] },
    ]),
  );
  expect(cycle).toMatchObject({ status: 422, code: 'dependency_cycle', problem: { cycle: expect.any(Array) } });
  const refused = client.jobs.stream({ job_id: 'x\0' }).next();
  expect(await problem(refused)).toMatchObject({ status: 400, code: 'invalid_request' });
});

test('two calls with the same Idempotency-Key create one upload', async () => {
  const create = async () => client.uploads.create(await png(), {}, { idempotencyKey: 'once' });
  const [first, second] = [await create(), await create()];
  expect(second.id).toBe(first.id);
  await client.uploads.done(first.id);
});

test('a signal ends waiting and streaming', async () => {
  const { job_id } = await client.jobs.submit({ type: 'sleep', payload: { input: 3_600 } });
  const signal = AbortSignal.timeout(300);
  await expect(client.jobs.done(job_id, { signal })).rejects.toThrow(/aborted/);
  await expect(client.jobs.stream({ job_id, signal }).next()).rejects.toThrow(/aborted/);
  await client.jobs.cancel(job_id);
});

describe('a service that restarts', () => {
  test('executes calls made during the restart once, and the stream resumes without a gap', async () => {
    const seen: string[] = [];
    const following = (async () => {
      for await (const { job_id, status } of client.jobs.stream({ after: 0 })) {
        if (status === 'completed' && job_id?.startsWith('away-')) seen.push(job_id);
        if (job_id === 'away-3' && status === 'completed') return;
      }
    })();
    await client.jobs.submit({ type: 'noop', job_id: 'away-1' });
    await until(async () => seen.includes('away-1'));

    await service.end(service.api);
    await expect(client.health.live()).rejects.toBeInstanceOf(UnreachableError);
    const sent = [client.jobs.submit({ type: 'noop', job_id: 'away-2' }), client.jobs.get('away-1')];
    const created = client.uploads.create(await png());
    await service.startApi();
    await Promise.all(sent);
    await client.uploads.done((await created).id);
    await client.jobs.done('away-2');
    await client.jobs.submit({ type: 'noop', job_id: 'away-3' });
    await following;
    expect(seen).toEqual(['away-1', 'away-2', 'away-3']);
  });

  test('executes interrupted calls once', async () => {
    const before = (await collect(client.uploads.list())).length;
    const file = await png();
    const creating = Array.from({ length: 12 }, () => client.uploads.create(file));
    // Some uploads are stored now, and not all of these are answered.
    await until(async () => {
      const { rows } = await service.pool.query('select count(*)::int from uploads');
      return rows[0].count > before;
    });
    await service.end(service.api, 'SIGKILL');
    // Releases the keys that killed requests hold for half a minute.
    await service.pool.query('update idempotency_keys set locked_until = now()');
    await service.startApi();
    const ids = (await Promise.all(creating)).map(({ id }) => id);
    expect(new Set(ids).size).toBe(12);
    expect(await collect(client.uploads.list())).toHaveLength(before + 12);
    for (const id of ids) await client.uploads.done(id);
    // The killed API left files whose rows were never written.
    const { filesNotListed } = await service.leftovers();
    for (const file of filesNotListed) await rm(path.join(service.folder, 'store', file));
  }, 120_000);
});

test('an upload that an overloaded service refuses is repeated after the requested delay', async () => {
  const busy = await startService({ converters: 0, env: { MAX_QUEUED_JOBS: '1' } });
  try {
    const { uploads } = createClient({ url: busy.url });
    const file = await png();
    await uploads.create(file);
    await until(async () => (await busy.post('/uploads')).status === 503);
    const later = uploads.create(file);
    // The service refuses uploads until a converter claims a job.
    const opened = Date.now();
    await busy.startConverter();
    const upload = await uploads.done((await later).id);
    expect(upload.status).toBe('completed');
    expect(Date.parse(upload.created_at)).toBeGreaterThan(opened);
  } finally {
    await busy.stop();
  }
});
