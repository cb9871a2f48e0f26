import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const EVERY_MINUTE = '* * * * *';

let service: Service;
beforeAll(async () => {
  service = await startService({ env: { TASKS: './examples/tasks/index.ts' } });
});
afterAll(() => service.stop());

const schedules = async (): Promise<Json[]> => (await service.get('/schedules')).items;

test('a schedule is made, replaced, listed by name and removed by name', async () => {
  expect(await service.get('/schedules')).toEqual({ items: [], next_cursor: null });
  const job = { type: 'reverse', payload: { input: 'abc' }, priority: 'high' };
  const made = await service.put('/schedules/weekly', { cron: '0 3 * * 1', timezone: 'Europe/Berlin', job });
  expect([made.status, made.body]).toEqual([
    200,
    { name: 'weekly', cron: '0 3 * * 1', timezone: 'Europe/Berlin', job, created_at: expect.stringMatching(TIME) },
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

test('a schedule that does not keep to the contract is refused, and what is wrong is named', async () => {
  const job = { type: 'noop' };
  const refused: [string, unknown, RegExp][] = [
    ['a', { cron: 'every minute', job }, /^cron/],
    ['a', { cron: '61 * * * *', job }, /^cron/],
    ['a', { cron: '', job }, /^cron/],
    ['a', { job }, /^cron/],
    ['a', { cron: EVERY_MINUTE, timezone: 'Mars/Olympus', job }, /timezone/],
    ['a', { cron: EVERY_MINUTE }, /^job/],
    ['a', { cron: EVERY_MINUTE, job: { type: 'nothing' } }, /^job\.type: there is no job type "nothing"/],
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

test('a schedule fires within the next minute after a restart of API and converter, once a minute for all APIs together', async () => {
  const payload = { input: 'tick' };
  const minuteOf = (time: string | number) => Math.floor(new Date(time).getTime() / 60_000);
  const made = minuteOf(Date.now());
  await service.put('/schedules/ticking', { cron: EVERY_MINUTE, job: { type: 'reverse', payload, priority: 'high' } });
  await service.end(service.api);
  await Promise.all(service.converters.map((converter) => service.end(converter)));
  await service.startApi();
  await service.startApi();
  await service.startConverter();
  expect(await schedules()).toMatchObject([{ name: 'ticking', cron: EVERY_MINUTE }]);

  const restarted = minuteOf(Date.now());
  const fired = await until(async () => {
    const { items } = await service.get('/jobs?type=reverse');
    return items.find(({ created_at }: Json) => minuteOf(created_at) > restarted);
  }, 75_000);
  expect(await service.jobDone(fired.job_id)).toMatchObject({
    status: 'completed',
    priority: 'high',
    payload: { ...payload, delay_seconds: 0 },
    result: { output: 'kcit' },
    attempts: [{ attempt: 1 }],
  });
  expect((await service.delete('/schedules/ticking')).status).toBe(204);
  expect(await schedules()).toEqual([]);
  const { items } = await service.get('/jobs?type=reverse');
  expect(items.length).toBeLessThanOrEqual(1 + minuteOf(Date.now()) - made);
  await expectNothingLeft(service);
}, 120_000);
