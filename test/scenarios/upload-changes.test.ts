import { once } from 'node:events';
import WebSocket from 'ws';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { expectProblem } from '../api/http/problems.ts';
import { encryptedPdf, makeImage, makePdf, RED } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { burnsCpu } from './processes.ts';
import { pdfThatNeverEnds } from './slow-files.ts';

const PAGES = 36;
/** The timeout of tests that wait for processor time. */
const LONG_MS = 180_000;
const UNKNOWN_ID = '01a20a0b-5ccf-7021-8000-000000000000';

let service: Service;
/** A PDF whose pages take about 0.1 s each, in ranges that run concurrently. */
let slow: Buffer;
beforeAll(async () => {
  service = await startService({ env: { CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '2048', PAGE_TIMEOUT_SECONDS: '1' } });
  slow = await makePdf(Array.from({ length: PAGES }, () => ({ width: 420, height: 420, color: RED })));
});
afterEach(() => expectNothingLeft(service));
afterAll(() => service.stop());

/** Starts an upload, and waits for its first pages. */
async function startUpload(): Promise<string> {
  const { body } = await service.upload([['slow.pdf', slow]], { dpi: '400' });
  await until(async () => {
    const { done, progress } = await service.get(`/uploads/${body.id}/status`);
    if (done) throw new Error('done before anything could be done to it');
    return progress.pages_done > 1;
  });
  return body.id;
}

async function filesOf(id: string): Promise<string[]> {
  return (await service.storedFiles()).filter((file) => file.includes(id));
}

/** Waits until all sandboxes are idle. */
const untilIdle = () =>
  until(async () => !descendantsOf(service.converters[0]?.pid as number).some((pid) => burnsCpu(pid)));

/** The results of the attempts of each job of an upload, with the pages of ranges. */
async function attemptsOf(id: string): Promise<{ pages: [number, number][] | null; runs: string[] }[]> {
  const { rows } = await service.pool.query(
    `select payload->'pages' as pages, array_agg(a.status order by a.attempt) as runs
     from jobs join job_attempts a on a.job_id = jobs.id where upload_id = $1 group by jobs.id order by jobs.id`,
    [id],
  );
  return rows;
}

test(
  'a cancelled upload ends at once, keeps its completed pages, and a retry converts only the others',
  async () => {
    const id = await startUpload();
    const { status, body: cancelled } = await service.post(`/uploads/${id}/cancel`);
    expect([status, cancelled]).toEqual([200, await service.get(`/uploads/${id}`)]);
    expect(cancelled).toMatchObject({ id, status: 'cancelled', error: null, finished_at: expect.any(String) });
    const { pages_done, pages_total } = cancelled.progress;
    expect(pages_total).toBe(PAGES);
    expect(cancelled.pages).toHaveLength(pages_done);
    await untilIdle();
    expect(await service.get(`/uploads/${id}`)).toEqual(cancelled);
    expectProblem(await service.post(`/uploads/${id}/cancel`), 409, 'conflict', /ended already: cancelled/);

    const retried = await service.post(`/uploads/${id}/retry`);
    expect(retried).toMatchObject({ status: 200, body: { id, status: 'processing', finished_at: null } });
    const done = await service.done(id, LONG_MS);
    expect(done).toMatchObject({ status: 'completed', progress: { pages_done: PAGES, pages_total: PAGES } });
    expect(done.pages).toEqual(expect.arrayContaining(cancelled.pages));
    expect((await service.bytes(done.pages[PAGES - 1].url)).length).toBe(done.pages[PAGES - 1].bytes);
    for (const { runs } of await attemptsOf(id))
      expect([['completed'], ['cancelled', 'completed']]).toContainEqual(runs);
    expectProblem(await service.post(`/uploads/${id}/retry`), 409, 'conflict', /is completed/);
    expect((await service.delete(`/uploads/${id}`)).status).toBe(204);
  },
  LONG_MS,
);

test(
  'a retry converts only the failed page',
  async () => {
    const { body } = await service.upload([['endless.pdf', pdfThatNeverEnds(5, 3)]]);
    const failed = await service.done(body.id, LONG_MS);
    expect(failed).toMatchObject({ status: 'failed', error: { code: 'timeout' }, progress: { pages_done: 4 } });
    const before = await attemptsOf(body.id);
    expect(await service.post(`/uploads/${body.id}/retry`)).toMatchObject({ status: 200 });
    const again = await service.done(body.id, LONG_MS);
    const good = (document: Json) => document.pages.filter(({ status }: Json) => status === 'completed');
    expect(again).toMatchObject({ status: 'failed', error: { code: 'timeout' }, progress: { pages_done: 4 } });
    expect(good(again)).toEqual(good(failed));
    const after = await attemptsOf(body.id);
    const known = before.map((job) => JSON.stringify(job));
    const others = after.filter((job) => {
      const at = known.indexOf(JSON.stringify(job));
      if (at >= 0) known.splice(at, 1);
      return at < 0;
    });
    expect(others.map(({ pages }) => pages)).toEqual([[[3, 3]]]);
  },
  LONG_MS,
);

test('the password is deleted when an upload ends, so the retry of an encrypted PDF fails with encrypted_pdf', async () => {
  const { body } = await service.upload([['a.pdf', encryptedPdf('secret')]], { password: 'wrong' });
  expect(await service.done(body.id)).toMatchObject({ status: 'failed', error: { code: 'wrong_password' } });
  await service.post(`/uploads/${body.id}/retry`);
  expect(await service.done(body.id)).toMatchObject({ status: 'failed', error: { code: 'encrypted_pdf' } });
});

test('an upload that is deleted while sandboxes write its pages is 404 at once, and leaves no files', async () => {
  const id = await startUpload();
  const [{ job_id }] = (await service.get(`/jobs?upload_id=${id}`)).items;
  const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream?upload_id=${id}&after=0`);
  const events: Json[] = [];
  socket.on('message', (data) => events.push(JSON.parse(String(data))));
  await once(socket, 'message');
  const { status, text } = await service.delete(`/uploads/${id}`);
  expect([status, text]).toEqual([204, '']);
  for (const route of ['', '/status', '/pages', '/originals', '/originals/1', '/pages/1/1.png'])
    expectProblem(await service.send('GET', `/uploads/${id}${route}`), 404, 'not_found');
  expectProblem(await service.send('GET', `/jobs/${job_id}`), 404, 'not_found');
  for (const route of ['/cancel', '/retry'])
    expectProblem(await service.post(`/uploads/${id}${route}`), 404, 'not_found');
  expectProblem(await service.delete(`/uploads/${id}`), 404, 'not_found');
  expect((await service.get('/uploads')).items.map((upload: Json) => upload.id)).not.toContain(id);
  await untilIdle();
  await until(async () => (await filesOf(id)).length === 0);
  await until(async () => events.at(-1)?.status === 'deleted');
  expect(events.at(-1)).toMatchObject({ kind: 'upload', upload_id: id, status: 'deleted', progress: null });
  socket.terminate();
});

test('an unknown upload cannot be cancelled, retried or deleted', async () => {
  for (const id of [UNKNOWN_ID, 'x', '..%2f..'])
    for (const answer of [
      await service.post(`/uploads/${id}/cancel`),
      await service.post(`/uploads/${id}/retry`),
      await service.delete(`/uploads/${id}`),
    ])
      expectProblem(answer, 404, 'not_found');
});

test('jobs that read a deleted upload fail', async () => {
  // A thousand rounds over a megabyte take a second, so the job still runs when its upload is deleted.
  const large = Buffer.concat([await makeImage(), Buffer.alloc(2 ** 20)]);
  const { body } = await service.upload([['a.png', large]]);
  await service.done(body.id);
  const payload = { upload_id: body.id, rounds: 1_000 };
  const runAt = new Date(Date.now() + 2_000).toISOString();
  const [running, later] = await service.submit([
    { type: 'checksum', payload },
    { type: 'archive', payload: { upload_id: body.id }, run_at: runAt },
  ]);
  await until(async () => (await service.get(`/jobs/${running.job_id}`)).progress !== null);
  await service.delete(`/uploads/${body.id}`);
  const ended = await service.jobDone(running.job_id);
  expect(ended).toMatchObject({ status: 'failed', error: { code: 'unknown_upload' } });
  const late = await service.jobDone(later.job_id);
  expect(late).toMatchObject({ status: 'failed', error: { code: 'unknown_upload' }, attempts: [{ attempt: 1 }] });
  expect(await filesOf(body.id)).toEqual([]);
});

describe('while no converter runs', () => {
  let waiting: Service;
  let png: Buffer;
  beforeAll(async () => {
    waiting = await startService({ converters: 0 });
    png = await makeImage();
  });
  afterEach(() => expectNothingLeft(waiting));
  afterAll(() => waiting.stop());

  test('an upload can be cancelled, retried and deleted', async () => {
    const { body } = await waiting.upload([['a.png', png]]);
    const { id } = body;
    expectProblem(await waiting.post(`/uploads/${id}/retry`), 409, 'conflict', /is queued/);
    expect((await waiting.post(`/uploads/${id}/cancel`)).body).toMatchObject({ status: 'cancelled', pages: [] });
    expect(await waiting.leftovers()).toMatchObject({ jobs: 0, queued: 0 });
    expect((await waiting.post(`/uploads/${id}/retry`)).body).toMatchObject({ status: 'processing' });
    expectProblem(await waiting.post(`/uploads/${id}/retry`), 409, 'conflict', /is processing/);
    expect(await waiting.leftovers()).toMatchObject({ jobs: 1, queued: 1 });
    expect((await waiting.delete(`/uploads/${id}`)).status).toBe(204);
    expect(await waiting.storedFiles()).toEqual([]);
  });

  test('an expired upload stays until the first converter deletes it', async () => {
    const { body } = await waiting.upload([['a.png', png]], { expires_at: new Date(Date.now() + 300).toISOString() });
    const later = await waiting.upload([['a.png', png]], {
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
    });
    await until(async () => Date.now() > Date.parse(body.expires_at));
    expect((await waiting.send('GET', `/uploads/${body.id}`)).status).toBe(200);
    const converter = await waiting.startConverter();
    await until(async () => (await waiting.send('GET', `/uploads/${body.id}`)).status === 404);
    await until(async () => !(await waiting.storedFiles()).some((file) => file.includes(body.id)));
    expect((await waiting.done(later.body.id)).status).toBe('completed');
    await waiting.end(converter);
  });
});
