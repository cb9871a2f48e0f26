import type { ChildProcess } from 'node:child_process';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { reservations, runsOf } from './attempts.ts';

/** Jobs that want more than there is: one converter of 8 CPU and 4096 MB. */
const CPU = 8;
const MEMORY_MB = 4096;

let service: Service;
let converter: ChildProcess;
beforeAll(async () => {
  service = await startService({
    converters: 0,
    env: { TASKS: './examples/tasks/index.ts', CAPACITY_CPU: String(CPU), CAPACITY_MEMORY_MB: String(MEMORY_MB) },
  });
});
afterEach(async () => {
  await expectNothingLeft(service).finally(() => service.end(converter));
});
afterAll(() => service.stop());

const heavy = { cpu_units: 4, memory_mb: 2048 };
const light = { cpu_units: 1, memory_mb: 256 };
const sleep = (input: number, resource_requirements: typeof heavy, more: object = {}) => ({
  type: 'sleep',
  payload: { input },
  resource_requirements,
  ...more,
});

test('five heavy and five light jobs never exceed the converter, light ones fill gaps, and priority holds', async () => {
  const ids: string[] = [];
  for (const [index, priority] of ['low', 'normal', 'normal', 'high', 'critical'].entries()) {
    ids.push((await service.submit(sleep(1.2, heavy, { priority, job_id: `heavy-${index}` }))).job_id);
    ids.push((await service.submit(sleep(0.3, light, { priority, job_id: `light-${index}` }))).job_id);
  }
  converter = await service.startConverter();
  const done = await Promise.all(ids.map((id) => service.jobDone(id)));
  expect(done.map(({ status }) => status)).toEqual(Array(10).fill('completed'));

  const runs = runsOf(done);
  const filled = reservations(runs);
  expect(Math.max(...filled.map(({ cpu }) => cpu))).toBeLessThanOrEqual(CPU);
  expect(Math.max(...filled.map(({ memory }) => memory))).toBeLessThanOrEqual(MEMORY_MB);
  const heavyAt = filled.map(({ jobs }) => jobs.filter((id) => id.startsWith('heavy')).length);
  expect(Math.max(...heavyAt)).toBe(2);

  // No light job waits while there is room: at each moment that something ended, what fits has started before long.
  const began = runs[0]?.from as number;
  for (const { job, cpu, memory, from } of runs.filter(({ job }) => job.startsWith('light'))) {
    const others = filled.filter(({ at }) => at >= began && at < from);
    const idle = others.reduce((longest, moment, index) => {
      const fits = CPU - moment.cpu >= cpu && MEMORY_MB - moment.memory >= memory;
      return fits ? Math.max(longest, (others[index + 1]?.at ?? from) - moment.at) : longest;
    }, 0);
    expect([job, idle < 900]).toEqual([job, true]);
  }
  // Two of one priority, submitted one after the other, start in that order; what one claim takes starts at one time.
  const startOf = (id: string) => runs.find(({ job }) => job === id)?.from as number;
  for (const kind of ['heavy', 'light']) {
    const starts = [4, 3, 1, 2, 0].map((index) => startOf(`${kind}-${index}`));
    expect([kind, starts]).toEqual([kind, starts.toSorted((one, other) => one - other)]);
  }
  expect(startOf('heavy-3')).toBeGreaterThan(startOf('light-1')); // a gap was filled before it
});

test('light jobs of a lower priority run in the gap beside a heavy one that does not fit', async () => {
  // They leave room for a light job only.
  const blockers = [
    sleep(60, heavy, { priority: 'critical' }),
    sleep(60, { cpu_units: 3, memory_mb: 1024 }, { priority: 'critical' }),
  ];
  const [first, second] = await service.submit(blockers);
  const waiting = await service.submit(sleep(0.1, heavy, { priority: 'high' }));
  const small = await service.submit(Array.from({ length: 3 }, () => sleep(0.05, light, { priority: 'low' })));
  converter = await service.startConverter();
  for (const { job_id } of small) expect((await service.jobDone(job_id)).status).toBe('completed');
  expect(await service.get(`/jobs/${waiting.job_id}`)).toMatchObject({ status: 'ready', position_in_queue: 1 });
  await service.patch(`/jobs/${first.job_id}/cancel`);
  await service.jobDone(waiting.job_id);
  await service.patch(`/jobs/${second.job_id}/cancel`);
});

test('a job that needs the whole converter is not starved by an endless stream of light ones', async () => {
  let fed = 0;
  /** Durations differ, so that the light ones do not end together. */
  async function feed(): Promise<void> {
    const { rows } = await service.pool.query(`select count(*)::int from jobs where status = 'ready'`);
    if (rows[0].count > 2 * CPU) return;
    await service.submit(Array.from({ length: 4 * CPU }, () => sleep(0.1 + (fed++ % 7) * 0.03, light)));
  }
  const { job_id } = await service.submit(sleep(0.1, { cpu_units: CPU, memory_mb: MEMORY_MB }, { job_id: 'whole' }));
  const first = await service.submit(Array.from({ length: CPU }, () => sleep(30, light, { priority: 'high' })));
  converter = await service.startConverter();
  await Promise.all(first.map((job: Json) => service.jobIn('running', job.job_id)));
  await feed();
  for (const one of first) await service.patch(`/jobs/${one.job_id}/cancel`);

  // It is the first in the queue, and the light ones pass it.
  await until(async () => {
    await feed();
    const { rows } = await service.pool.query(
      `select count(*)::int from jobs where status = 'completed' and created_at > (select created_at from jobs where id = 'whole')`,
    );
    return rows[0].count > 5 * CPU;
  });
  expect(await service.get(`/jobs/${job_id}`)).toMatchObject({ status: 'ready', position_in_queue: 1 });

  // As if half a minute had passed.
  await service.pool.query(
    `update jobs set arrived_at = now() - interval '31 seconds' where id = $1 and status = 'ready'`,
    [job_id],
  );
  await until(async () => {
    await feed();
    return (await service.get(`/jobs/${job_id}`)).started_at !== null;
  });
  const ready = (await service.get('/jobs?status=ready&limit=200')).items;
  expect(ready.length).toBeGreaterThan(0);
  expect(await service.jobDone(job_id)).toMatchObject({
    status: 'completed',
    attempts: [{ cpu_units: CPU, memory_mb: MEMORY_MB }],
  });
  await until(async () => (await service.leftovers()).jobs === 0);
});
