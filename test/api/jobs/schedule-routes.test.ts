import { followSchedules } from '../../../api/jobs/schedule-runner.ts';
import { scheduleRuns } from '../../../api/operations/metrics.ts';
import { openDatabase } from '../../../db/client.ts';
import { openQueues } from '../../../db/queues.ts';
import { createLogger } from '../../../runtime/log.ts';
import { type Json, type Service, startService, until } from '../../support/service.ts';
import { startWay } from '../../support/tcp-proxy.ts';
import { expectProblem } from '../http/problems.ts';

const MAX_SCHEDULES = 7;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const YEARLY = { cron: '0 3 1 1 *', job: { type: 'noop' } };

let service: Service;
beforeAll(async () => {
  const env = {
    TASKS: './examples/tasks/index.ts',
    MAX_SCHEDULES_PER_OWNER: String(MAX_SCHEDULES),
    LOG_LEVEL: 'error',
  };
  service = await startService({ converters: 0, keepLog: true, env });
});
afterEach(() => service.pool.query('delete from schedules'));
afterAll(() => service.stop());

const makeDue = (name: string) =>
  service.pool.query(
    `update schedules set next_run_at = date_trunc('minute', now()), created_at = now() - interval '1 day' where name = $1`,
    [name],
  );

test('a schedule has its next and its last run', async () => {
  const put = await service.put('/schedules/nightly', { ...YEARLY, timezone: 'Europe/Berlin' });
  const year = new Date().getUTCFullYear() + 1;
  expect([put.status, put.body]).toEqual([
    200,
    {
      name: 'nightly',
      ...{ cron: '0 3 1 1 *', timezone: 'Europe/Berlin', paused: false, overlap: 'allow', missed: 'once' },
      job: { type: 'noop' },
      ...{ next_run_at: `${year}-01-01T02:00:00.000Z`, last_run_at: null, last_error: null },
      ...{ created_at: expect.stringMatching(TIME), updated_at: expect.stringMatching(TIME) },
    },
  ]);
  expect(await service.get('/schedules/nightly')).toEqual(put.body);
  await makeDue('nightly');
  const ran = await until(async () => {
    const schedule = await service.get('/schedules/nightly');
    return schedule.last_run_at !== null && schedule;
  });
  expect(ran).toMatchObject({ next_run_at: put.body.next_run_at, last_error: null });
  expect((await service.get('/jobs?type=noop')).items).toHaveLength(1);
});

test('a paused schedule has no next run, and can be run manually', async () => {
  const { body } = await service.put('/schedules/paused', { ...YEARLY, paused: true });
  expect(body).toMatchObject({ paused: true, next_run_at: null });
  const ran = await service.post('/schedules/paused/run');
  expect([ran.status, ran.headers.get('location')]).toEqual([201, `/jobs/${ran.body.job_id}`]);
  expect(await service.get(`/jobs/${ran.body.job_id}`)).toMatchObject({ type: 'noop', status: 'ready' });
  const { last_run_at, next_run_at } = await service.get('/schedules/paused');
  expect([last_run_at, next_run_at]).toEqual([expect.stringMatching(TIME), null]);
  const resumed = await service.put('/schedules/paused', YEARLY);
  expect(resumed.body).toMatchObject({ paused: false, next_run_at: expect.stringMatching(TIME), last_run_at });
});

test('a manual run of a schedule without overlap is refused until its previous job ends', async () => {
  await service.put('/schedules/alone', { ...YEARLY, overlap: 'skip' });
  const { body } = await service.post('/schedules/alone/run');
  expectProblem(await service.post('/schedules/alone/run'), 409, 'conflict', new RegExp(body.job_id));
  await service.patch(`/jobs/${body.job_id}/cancel`);
  expect((await service.post('/schedules/alone/run')).status).toBe(201);
});

test('schedules are listed by name in pages', async () => {
  const names = ['e', 'b', 'D', 'a', 'c'];
  for (const name of names) await service.put(`/schedules/${name}`, YEARLY);
  const seen: string[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: Json = await service.get(`/schedules?limit=2${cursor && `&cursor=${cursor}`}`);
    expect(page.items.length).toBeLessThanOrEqual(2);
    seen.push(...page.items.map(({ name }: Json) => name));
    cursor = page.next_cursor;
  }
  expect([...seen].sort()).toEqual([...names].sort());
  expect((await service.get('/schedules')).items.map(({ name }: Json) => name)).toEqual(seen);
  for (const query of ['limit=0', 'limit=201', 'cursor=x', 'cursor=', 'nothing=1']) {
    expectProblem(await service.send('GET', `/schedules?${query}`), 400, 'invalid_request');
  }
});

test('a schedule beyond the limit of its owner is refused, and existing schedules can change', async () => {
  for (let index = 1; index <= MAX_SCHEDULES; index++) await service.put(`/schedules/s${index}`, YEARLY);
  const refused = await service.put('/schedules/one-more', YEARLY);
  expectProblem(refused, 429, 'too_many_requests', /at most 7 for each owner/);
  expect(refused.headers.get('retry-after')).not.toBeNull();
  expect((await service.put('/schedules/s1', { ...YEARLY, paused: true })).status).toBe(200);
  await service.delete('/schedules/s1');
  expect((await service.put('/schedules/one-more', YEARLY)).status).toBe(200);
});

test.each([
  [{ cron: '0 3 * *' }, /^cron: must be five fields/],
  [{ cron: '*/10 * * * * *' }, /^cron: must be five fields/],
  [{ cron: 'FREQ=MINUTELY' }, /^cron: must be five fields/],
  [{ cron: '0 24 * * *' }, /^cron: hour: must be .* 0 to 23.*got "24"/],
  [{ cron: '0 0 30 2 *' }, /^cron: never fires/],
  [{ timezone: 'Mars/Olympus' }, /^timezone: must be .*Europe\/Berlin/],
  [{ overlap: 'queue' }, /^overlap: must be one of allow, skip/],
  [{ missed: 'all' }, /^missed: must be one of once, skip/],
  [{ paused: 'yes' }, /^paused: /],
])('%j is refused with the valid values', async (change, detail) => {
  expectProblem(await service.put('/schedules/a', { ...YEARLY, ...change }), 400, 'invalid_request', detail);
});

test('an unknown schedule is 404 for every call', async () => {
  for (const [method, route] of [
    ['GET', '/schedules/nothing'],
    ['DELETE', '/schedules/nothing'],
    ['POST', '/schedules/nothing/run'],
    ['GET', `/schedules/${'x'.repeat(101)}`],
  ] as const) {
    expectProblem(await service.send(method, route), 404, 'not_found');
  }
});

test('a run that cannot be submitted is shown on its schedule, logged and counted', async () => {
  await service.put('/schedules/broken', YEARLY);
  await service.pool.query(`update schedules set cron = '*/5 * * * * *'`);
  await makeDue('broken');
  const broken = await until(async () => {
    const schedule = await service.get('/schedules/broken');
    return schedule.last_error !== null && schedule;
  });
  expect(broken).toMatchObject({
    ...{ next_run_at: null, last_run_at: null },
    last_error: { code: 'invalid_request', message: expect.stringMatching(/^cron: must be five fields/) },
  });
  await until(async () => /"schedule":"broken".*scheduled job could not be submitted/.test(service.log()));
  const metrics = await (await fetch(`${service.url}/metrics`)).text();
  expect(metrics).toMatch(/^sheetmill_schedule_runs_total\{outcome="failed"\} 1$/m);
});

test('schedules run again after an outage of Postgres', async () => {
  const way = await startWay(service.pool.options.connectionString ?? '');
  way.open();
  const log = createLogger('silent', {});
  const { db, close } = await openDatabase(way.url, { name: 'test', log });
  const queues = await openQueues(db, { supervise: false, log });
  // The API must not run the schedule instead.
  await service.put('/schedules/outage', YEARLY);
  await service.end(service.api);
  const runner = followSchedules(db, queues, log);
  try {
    way.close();
    await until(async () => way.refused() > 0);
    await makeDue('outage');
    way.open();
    await until(async () => {
      const { rows } = await service.pool.query('select last_job_id from schedules');
      return rows[0].last_job_id !== null;
    });
    expect((await scheduleRuns.get()).values).toMatchObject([{ labels: { outcome: 'submitted' }, value: 1 }]);
  } finally {
    await runner.close();
    await queues.close();
    await close();
    await way.stop();
    await service.startApi();
  }
});
