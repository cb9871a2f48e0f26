import { makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let service: Service;
beforeAll(async () => {
  service = await startService({ env: { TASKS: './examples/tasks/index.ts', CAPACITY_MEMORY_MB: '8192' } });
});
afterEach(() => expectNothingLeft(service));
afterAll(() => service.stop());

const ids = (items: Json[]) => items.map(({ job_id }) => job_id);
/** Fails without a retry. */
const bad = { type: 'fail', payload: { times: 9 }, retry_config: { max_attempts: 1 } };

async function submitDone(jobs: Json[]): Promise<Json[]> {
  const submitted: Json[] = await service.submit(jobs);
  return Promise.all(submitted.map(({ job_id }) => service.jobDone(job_id)));
}

test('each filter narrows the list, which is newest first', async () => {
  const [old] = await submitDone([{ type: 'email', priority: 'low' }]);
  const { body: upload } = await service.upload([['a.pdf', await makePdf([{ color: RED }])]]);
  await service.done(upload.id);
  const [failed, critical] = await submitDone([bad, { type: 'email', priority: 'critical' }]);
  const last = await service.submit({ type: 'noop', run_at: new Date(Date.now() + 3_600_000).toISOString() });
  const list = async (query: string) => ids((await service.get(`/jobs?${query}`)).items);

  expect(await list('type=email')).toEqual([critical.job_id, old.job_id]);
  expect(await list('priority=low')).toEqual([old.job_id]);
  expect(await list('status=scheduled')).toEqual([last.job_id]);
  expect(await list('status=failed&limit=1')).toEqual([failed.job_id]);
  const ofUpload = (await service.get(`/jobs?upload_id=${upload.id}`)).items;
  expect(ofUpload).toMatchObject([{ type: 'convert', upload_id: upload.id }]);
  // `created_after` includes its moment, `created_before` excludes it, and both accept any time zone.
  expect(await list(`created_after=${last.created_at}`)).toEqual([last.job_id]);
  expect(await list(`created_before=${old.created_at}&priority=low`)).toEqual([]);
  const shifted = new Date(Date.parse(last.created_at) + 3_600_000).toISOString().replace('Z', '%2B01:00');
  expect(await list(`created_before=${shifted}&type=email`)).toEqual([critical.job_id, old.job_id]);
  expect(await list(`created_after=${shifted}`)).toEqual([last.job_id]);
  expect(await list('status=completed&type=email&priority=critical')).toEqual([critical.job_id]);
  expect(await list('type=nothing')).toEqual([]);

  // An item is the job's document without its attempts, and without its place in the queue.
  const { attempts, ...document } = failed;
  expect((await service.get('/jobs?status=failed&limit=1')).items).toEqual([document]);
  await service.patch(`/jobs/${last.job_id}/cancel`);
});

test('the pages of a list give each job exactly once, although many have the same time', async () => {
  const batch = Array.from({ length: 25 }, (_, index) => ({ job_id: `page-${index}`, type: 'noop' }));
  await submitDone(batch);
  await submitDone(batch.map(({ type }, index) => ({ job_id: `other-${index}`, type })));
  const seen: string[] = [];
  let pages = 0;
  for (let cursor: string | null = ''; cursor !== null; pages++) {
    const page: Json = await service.get(`/jobs?type=noop&status=completed&limit=7${cursor && `&cursor=${cursor}`}`);
    expect(page.items.length).toBe(page.next_cursor === null ? 1 : 7);
    seen.push(...ids(page.items));
    cursor = page.next_cursor;
    // A new job belongs before the first page.
    if (pages === 2) await submitDone([{ job_id: 'meanwhile', type: 'noop' }]);
  }
  const expected = batch.flatMap((_, index) => [`page-${index}`, `other-${index}`]);
  expect([pages, seen.toSorted()]).toEqual([8, expected.sort()]);
  expect(seen.slice(0, 25).every((id) => id.startsWith('other'))).toBe(true);
  const whole = await service.get('/jobs?type=noop&status=completed&limit=51');
  expect([whole.items.length, whole.next_cursor]).toEqual([51, null]);
});

test.each([
  ['status=done', /^status/],
  ['status=ready&status=running', /^status/],
  ['type=', /^type/],
  ['type=a%00', /^type/],
  ['priority=urgent', /^priority/],
  ['upload_id=1', /^upload_id/],
  ['created_after=yesterday', /^created_after/],
  ['created_before=0000-01-01T00:00:00Z', /^created_before/],
  ['limit=0', /^limit/],
  ['limit=201', /^limit/],
  ['limit=x', /^limit/],
  ['cursor=x', /^cursor/],
  ['cursor=', /^cursor/],
  [`cursor=${Buffer.from('{"createdAt":1e300,"id":"a"}').toString('base64url')}`, /^cursor/],
  [`cursor=${Buffer.from('{"createdAt":1,"id":"a\\u0000"}').toString('base64url')}`, /^cursor/],
  [`cursor=${Buffer.from('null').toString('base64url')}`, /^cursor/],
  ['colour=red', /colour/],
])('GET /jobs?%s is refused', async (query, detail) => {
  expectProblem(await service.send('GET', `/jobs?${query}`), 400, 'invalid_request', detail);
});

test('the log of a job has its status changes and the lines of its task, in pages', async () => {
  const [job, other] = await submitDone([{ type: 'email', payload: { to: 'a', subject: 'b' } }, { type: 'email' }]);
  const { items, next_cursor } = await service.get(`/jobs/${job.job_id}/logs`);
  expect(next_cursor).toBeNull();
  for (const line of items) {
    expect(Object.keys(line)).toEqual(['id', 'at', 'attempt', 'level', 'message', 'data']);
    expect(line).toMatchObject({ id: expect.any(Number), at: expect.stringMatching(TIME), level: 'info' });
  }
  const messages = items.map(({ message }: Json) => message);
  expect([messages[0], messages[1], messages.at(-1)]).toEqual(['ready', 'running', 'completed']);
  const said = items.filter(({ message }: Json) => /^email/.test(message));
  expect(said).toMatchObject([
    { attempt: 1, message: 'email begins', data: { given: ['to', 'subject'] } },
    { attempt: 1, message: 'email finished (simulated)', data: null },
  ]);

  const paged: Json[] = [];
  for (let cursor = ''; ; ) {
    const page = await service.get(`/jobs/${job.job_id}/logs?limit=2${cursor}`);
    expect(page.items.length).toBeLessThanOrEqual(2);
    paged.push(...page.items);
    if (page.next_cursor === null) break;
    cursor = `&cursor=${page.next_cursor}`;
  }
  expect(paged).toEqual(items);
  expect((await service.get(`/jobs/${job.job_id}/logs?after=${items[1].id}`)).items).toEqual(items.slice(2));
  expect((await service.get(`/jobs/${job.job_id}/logs?after=${items.at(-1).id}`)).items).toEqual([]);
  const others = (await service.get(`/jobs/${other.job_id}/logs`)).items;
  expect(others.some(({ id }: Json) => items.some((line: Json) => line.id === id))).toBe(false);
  for (const query of ['after=-1', 'after=x', 'limit=0', 'limit=201', 'cursor=x', 'level=info', 'after=1e99']) {
    const answer = await service.send('GET', `/jobs/${job.job_id}/logs?${query}`);
    expectProblem(answer, 400, 'invalid_request', /./);
  }
  const failed = (await submitDone([bad]))[0];
  const lines = (await service.get(`/jobs/${failed.job_id}/logs`)).items;
  expect(lines.at(-1)).toMatchObject({ level: 'error', message: 'failed: attempt 1 of this job fails, as asked' });
});
