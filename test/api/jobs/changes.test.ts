import { makeImage } from '../../support/files.ts';
import { type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';

const TOMORROW = new Date(Date.now() + 86_400_000).toISOString();
const YESTERDAY = new Date(Date.now() - 86_400_000).toISOString();

/** Without a converter, so that jobs wait. */
let service: Service;
beforeAll(async () => {
  service = await startService({ converters: 0, env: { TASKS: './examples/tasks/index.ts', LOG_LEVEL: 'fatal' } });
});
afterAll(() => service.stop());
afterEach(async () => expect(await service.audit()).toEqual([]));

const change = (id: string, body: unknown) => service.send('PATCH', `/jobs/${id}`, body);

test('a change of a waiting job answers with its new position', async () => {
  const [first, second] = await service.submit([
    { type: 'reverse', payload: { input: 'a' } },
    { type: 'reverse', payload: { input: 'b' }, priority: 'low' },
  ]);
  const payload = { input: 'c', delay_seconds: 0 };
  const changed = await change(second.job_id, { priority: 'critical', payload });
  expect([changed.status, changed.body]).toMatchObject([
    200,
    { priority: 'critical', payload, status: 'ready', position_in_queue: 1, attempts: [] },
  ]);
  expect(await service.get(`/jobs/${second.job_id}`)).toEqual(changed.body);
  const moved = (await change(first.job_id, { run_at: TOMORROW })).body;
  expect(moved).toMatchObject({ status: 'scheduled', run_at: TOMORROW, position_in_queue: null });
  for (const run_at of [null, YESTERDAY]) {
    expect((await change(first.job_id, { run_at })).body).toMatchObject({ status: 'ready', run_at });
  }
});

test('a change that is empty, unknown or invalid by the schema of its task is refused', async () => {
  const { job_id } = await service.submit({ type: 'reverse', payload: { input: 'a' } });
  const wrong: [unknown, RegExp][] = [
    [{}, /at least one field/],
    [[], /expected object/i],
    [{ timeout_seconds: 1 }, /unknown field "timeout_seconds"; valid fields: priority, run_at, payload/],
    [{ priority: 'urgent' }, /priority: must be one of/],
    [{ run_at: '2999-01-01T00:00:00Z' }, /run_at: must be less than 30 years in the future/],
    [{ payload: { input: 1 } }, /payload\.input/],
    [{ payload: { input: 'a\0' } }, /payload\.input: must not contain NUL/],
  ];
  for (const [body, detail] of wrong) expectProblem(await change(job_id, body), 400, 'invalid_request', detail);
  expectProblem(await change('unknown', { priority: 'high' }), 404, 'not_found');
  await service.patch(`/jobs/${job_id}/cancel`);
  expectProblem(await change(job_id, { priority: 'high' }), 409, 'conflict', /is cancelled/);
});

test('only the priority of a job of an upload can change, and the payload of an archive cannot', async () => {
  const { id } = (await service.upload([['a.png', await makeImage()]])).body;
  const { items } = await service.get(`/jobs?upload_id=${id}`);
  const convert = items[0].job_id;
  expect((await change(convert, { priority: 'high' })).body).toMatchObject({ priority: 'high' });
  expectProblem(await change(convert, { run_at: TOMORROW }), 409, 'conflict', /only its priority can change/);
  expectProblem(await change(convert, { payload: items[0].payload }), 409, 'conflict');
  const archive = { type: 'archive', payload: { upload_id: id } };
  const { job_id } = await service.submit(archive);
  expectProblem(await change(job_id, { payload: archive.payload }), 400, 'invalid_request', /cannot change/);
  expect((await service.submit([archive, archive])).map((one: Json) => one.job_id)).toEqual([job_id, job_id]);
});

test('a POST of a job with a unique key in use returns the existing job', async () => {
  const job = { type: 'noop', unique: { key: 'nightly', period_seconds: 3_600 } };
  const first = await service.post('/jobs', job);
  const again = await service.post('/jobs', { ...job, priority: 'high' });
  expect([again.status, again.body, again.headers.get('location')]).toEqual([
    201,
    first.body,
    first.headers.get('location'),
  ]);
  const batch = await service.submit([job, { ...job, unique: null }, { ...job, job_id: 'own' }]);
  expect(batch.map((one: Json) => one.job_id === first.body.job_id)).toEqual([true, false, true]);
  for (const unique of [
    { key: '', period_seconds: 1 },
    { key: 'a', period_seconds: 0 },
    { key: 'a\0', period_seconds: 1 },
  ]) {
    expectProblem(await service.post('/jobs', { ...job, unique }), 400, 'invalid_request', /unique\./);
  }
});
