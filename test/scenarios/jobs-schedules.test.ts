import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const EVERY_MINUTE = '* * * * *';

let service: Service;
beforeAll(async () => {
  service = await startService({ env: { TASKS: './examples/tasks/index.ts', CAPACITY_CPU: '2' } });
});
afterAll(() => service.stop());

const schedules = async (): Promise<Json[]> => (await service.get('/schedules')).items;

test('a schedule is made, replaced, listed by name and removed by name', async () => {
  expect(await service.get('/schedules')).toEqual({ items: [], next_cursor: null });
  const job = { type: 'reverse', payload: { input: 'abc' }, priority: 'high' };
  const made = await service.put('/schedules/weekly', { cron: '0 3 * * 1', timezone: 'Europe/Berlin', job });
  expect([made.status, made.body]).toEqual([
    200,
    {
      name: 'weekly',
      ...{ cron: '0 3 * * 1', timezone: 'Europe/Berlin', paused: false, overlap: 'allow', missed: 'once', job },
      ...{ next_run_at: expect.stringMatching(TIME), last_run_at: null, last_error: null },
      ...{ created_at: expect.stringMatching(TIME), updated_at: expect.stringMatching(TIME) },
    },
  ]);
  const replaced = await service.put('/schedules/weekly', { cron: '0 4 * * 1', job: { type: 'noop' } });
  expect(replaced.body).toMatchObject({ cron: '0 4 * * 1', timezone: 'UTC', job: { type: 'noop' } });
  await service.put('/schedules/daily.2', { cron: '0 0 * * *', job });
  expect(await schedules()).toMatchObject([{ name: 'daily.2' }, replaced.body]);

  for (const name of ['weekly', 'daily.2']) {
    const { status, text } = await service.delete(`/schedules/${name}`);
    expect([status, text]).toEqual([204, '']);
    expect((await service.delete(`/schedules/${name}`)).body).toMatchObject({ status: 404, code: 'not_found' });
  }
  expect(await schedules()).toEqual([]);
});

test('an invalid schedule is refused, and the error names the invalid field', async () => {
  const job = { type: 'noop' };
  const refused: [string, unknown, RegExp][] = [
    ['a', { cron: 'every minute', job }, /^cron/],
    ['a', { cron: '61 * * * *', job }, /^cron/],
    ['a', { cron: '', job }, /^cron/],
    ['a', { job }, /^cron/],
    ['a', { cron: EVERY_MINUTE, timezone: 'Mars/Olympus', job }, /timezone/],
    ['a', { cron: EVERY_MINUTE }, /^job/],
    ['a', { cron: EVERY_MINUTE, job: { type: 'nothing' } }, /^job\.type: must be one of .*\(got "nothing"\)/],
    ['a', { cron: EVERY_MINUTE, job: { type: 'convert' } }, /^job\.type/],
    ['a', { cron: EVERY_MINUTE, job: { type: 'sleep', payload: { input: -1 } } }, /^job\.payload\.input/],
    ['a', { cron: EVERY_MINUTE, job: { ...job, job_id: 'always-the-same' } }, /^job: .*job_id/],
    ['a', { cron: EVERY_MINUTE, job: { ...job, depends_on: [] } }, /^job: .*depends_on/],
    ['a', { cron: EVERY_MINUTE, job: { ...job, payload: { text: 'a\0b' } } }, /^job\.payload/],
    [
      'a',
      `{"cron": "* * * * *", "job": {"type": "noop", "payload": ${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}}}`,
      /deep/,
    ],
    ['a', { cron: EVERY_MINUTE, job, name: 'b' }, /name/],
    ['a', [], /./],
    ['a%20b', { cron: EVERY_MINUTE, job }, /^name/],
    ['x'.repeat(101), { cron: EVERY_MINUTE, job }, /^name/],
  ];
  for (const [name, body, detail] of refused) {
    const answer = await service.put(`/schedules/${name}`, body);
    expect([body, answer.status, answer.body.code]).toEqual([body, 400, 'invalid_request']);
    expect(answer.body.detail).toMatch(detail);
  }
  const text = await service.send('PUT', '/schedules/a', 'text', { 'Content-Type': 'text/plain' });
  expect(text.status).toBe(415);
  expect((await service.delete('/schedules/a')).status).toBe(404);
  expect(await schedules()).toEqual([]);
});

test('a run that was cut off when its process was killed is submitted once by another', async () => {
  const payload = { input: 'tick' };
  await service.put('/schedules/ticking', { cron: '0 3 1 1 *', job: { type: 'reverse', payload, priority: 'high' } });
  // The API holds its schedule locked and waits for the table of jobs, as if it were killed just then.
  const blocker = await service.pool.connect();
  await blocker.query('begin; lock table jobs in share row exclusive mode');
  const { rows } = await service.pool.query(
    `update schedules set next_run_at = date_trunc('minute', now()), created_at = now() - interval '1 day' returning next_run_at`,
  );
  await until(async () => {
    const { rowCount } = await service.pool.query(
      `select 1 from pg_locks join pg_stat_activity using (pid)
        where relation = 'jobs'::regclass and not granted and application_name = 'sheetmill-api'`,
    );
    return rowCount === 1;
  });
  await service.end(service.api, 'SIGKILL');
  await blocker.query('rollback');
  blocker.release();
  await service.startApi();
  const other = await service.startOtherApi();

  const schedule = await until(async () => {
    const found = await service.get('/schedules/ticking');
    return found.last_run_at !== null && found;
  });
  expect(schedule).toMatchObject({ last_run_at: rows[0].next_run_at.toISOString(), last_error: null });
  const { items } = await service.get('/jobs?type=reverse');
  expect(items).toHaveLength(1);
  expect(await service.jobDone(items[0].job_id)).toMatchObject({
    status: 'completed',
    priority: 'high',
    payload: { ...payload, delay_seconds: 0 },
    result: { output: 'kcit' },
    attempts: [{ attempt: 1 }],
  });
  await service.end(other.child);
  expect((await service.delete('/schedules/ticking')).status).toBe(204);
  await expectNothingLeft(service);
});
