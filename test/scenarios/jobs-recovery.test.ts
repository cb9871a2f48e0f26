import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { makeImage } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { runsOf } from './attempts.ts';
import { burnsCpu, isAlive, sandboxesOf } from './processes.ts';

/** Jobs that fail, run out of time or are cancelled, and converters that are stopped or killed. */
let service: Service;
let converter: ChildProcess;
beforeAll(async () => {
  service = await startService({
    converters: 0,
    env: {
      TASKS: './test/scenarios/crashing-tasks.ts',
      CAPACITY_CPU: '2',
      CAPACITY_MEMORY_MB: '1024',
      SHUTDOWN_GRACE_SECONDS: '1',
    },
  });
  converter = await service.startConverter();
});
afterEach(() => expectNothingLeft(service));
afterAll(() => service.stop());

const outcomes = ({ attempts }: Json) => attempts.map(({ status, error }: Json) => [status, error?.code ?? null]);
const quickly = { initial_delay_seconds: 0 };

describe('a job', () => {
  test('that fails twice is tried again, each time after a longer wait, and completes', async () => {
    const { job_id } = await service.submit({
      type: 'fail',
      payload: { times: 2 },
      retry_config: { max_attempts: 3, initial_delay_seconds: 0.4, backoff_multiplier: 10 },
    });
    const waiting = await service.jobIn('retrying', job_id);
    expect(waiting).toMatchObject({
      finished_at: null,
      position_in_queue: null,
      error: { code: 'task_failed', message: 'attempt 1 of this job fails, as asked' },
    });
    const done = await service.jobDone(job_id);
    expect(done).toMatchObject({ status: 'completed', result: { attempts: 3 }, error: null });
    expect(outcomes(done)).toEqual([
      ['failed', 'task_failed'],
      ['failed', 'task_failed'],
      ['completed', null],
    ]);
    const [first, second, third] = runsOf([done]);
    const waits = [(second?.from ?? 0) - (first?.to ?? 0), (third?.from ?? 0) - (second?.to ?? 0)] as const;
    // Half of each delay may be taken off at random: 0.4 s, then 4 s.
    expect(waits[0]).toBeGreaterThanOrEqual(200);
    expect(waits[1]).toBeGreaterThanOrEqual(2_000);
    expect(waits[1]).toBeGreaterThan(waits[0]);
  });

  test('that runs out of time is aborted, tried again, and fails with timeout once its attempts are spent', async () => {
    const retry_config = { ...quickly, max_attempts: 2 };
    const jobs: Json[] = await service.submit([
      { type: 'sleep', payload: { input: 100 }, timeout_seconds: 1, retry_config },
      { type: 'fibonacci', payload: { input: 45, recursive: true }, timeout_seconds: 1, retry_config },
    ]);
    for (const done of await Promise.all(jobs.map(({ job_id }) => service.jobDone(job_id)))) {
      expect(done).toMatchObject({ status: 'failed', error: { code: 'timeout', message: 'took longer than 1 s' } });
      expect(outcomes(done)).toEqual([
        ['failed', 'timeout'],
        ['failed', 'timeout'],
      ]);
      for (const { from, to } of runsOf([done])) expect(to - from).toBeGreaterThanOrEqual(1_000);
    }
  });

  test('with a permanent failure is not retried, and its dependants never start', async () => {
    const { body: upload } = await service.upload([['a.png', await makeImage()]]);
    const [checksum, next, last] = await service
      .submit([
        { job_id: 'check', type: 'checksum', payload: { upload_id: upload.id, original: 2 } },
        { job_id: 'next', type: 'noop', depends_on: ['check'] },
        { job_id: 'last', type: 'noop', depends_on: ['next'] },
      ])
      .then((jobs: Json[]) => Promise.all(jobs.map(({ job_id }) => service.jobDone(job_id))));
    expect(checksum).toMatchObject({ status: 'failed', retry_config: { max_attempts: 3 } });
    expect(outcomes(checksum)).toEqual([['failed', 'task_failed']]);
    for (const job of [next, last]) {
      expect(job).toMatchObject({ status: 'failed', error: { code: 'dependency_failed' }, attempts: [] });
    }
    await service.done(upload.id);
  });

  test('in a sandbox that is cancelled gives up its sandbox within a second', async () => {
    const { job_id } = await service.submit({ type: 'fibonacci', payload: { input: 45, recursive: true } });
    await service.jobIn('running', job_id);
    const busy = await until(async () => sandboxesOf(converter.pid as number).find(burnsCpu));
    const { status, body } = await service.patch(`/jobs/${job_id}/cancel`);
    expect([status, body.status, body.error, outcomes(body)]).toEqual([200, 'cancelled', null, [['cancelled', null]]]);
    expect(body.finished_at).not.toBeNull();
    await until(async () => !isAlive(busy), 1_000);
    const next = await service.submit({ type: 'fibonacci', payload: { input: 10 } });
    expect(await service.jobDone(next.job_id)).toMatchObject({ status: 'completed', result: { output: '55' } });
    expect(outcomes(await service.get(`/jobs/${job_id}`))).toEqual([['cancelled', null]]);
  });

  test('in the converter itself that is cancelled frees what it had reserved within a second', async () => {
    const whole = { cpu_units: 2, memory_mb: 1024 };
    const [sleeping, next] = await service.submit([
      { type: 'sleep', priority: 'critical', payload: { input: 100 }, resource_requirements: whole },
      { type: 'sleep', payload: { input: 0 }, resource_requirements: whole },
    ]);
    await service.jobIn('running', sleeping.job_id);
    expect((await service.patch(`/jobs/${sleeping.job_id}/cancel`)).body.status).toBe('cancelled');
    const cancelled = await service.get(`/jobs/${sleeping.job_id}`);
    expect(outcomes(cancelled)).toEqual([['cancelled', null]]);
    const done = await service.jobDone(next.job_id);
    expect(Date.parse(done.started_at) - Date.parse(cancelled.finished_at)).toBeLessThan(1_000);
  });
});

describe('a converter', () => {
  test('that gets SIGTERM lets a short job finish, and returns a long one without spending an attempt', async () => {
    const [long, short] = await service.submit([
      { type: 'sleep', payload: { input: 30 }, retry_config: { max_attempts: 1 } },
      { type: 'sleep', payload: { input: 0.5 } },
    ]);
    await service.jobIn('running', long.job_id);
    await service.jobIn('running', short.job_id);
    await service.end(converter);
    expect(converter.exitCode).toBe(0);
    expect(await service.get(`/jobs/${short.job_id}`)).toMatchObject({
      status: 'completed',
      attempts: [{ attempt: 1 }],
    });
    const handedBack = await service.get(`/jobs/${long.job_id}`);
    expect(handedBack).toMatchObject({ status: 'ready', position_in_queue: 1, error: null });
    expect(outcomes(handedBack)).toEqual([['returned', null]]);
    expect((await service.get('/system')).converters).toEqual([]);

    converter = await service.startConverter();
    expect(outcomes(await service.jobIn('running', long.job_id))).toEqual([
      ['returned', null],
      ['running', null],
    ]);
    await service.patch(`/jobs/${long.job_id}/cancel`);
  });

  test('that is killed loses nothing: another one finishes its jobs', async () => {
    const jobs: Json[] = await service.submit([
      { type: 'sleep', payload: { input: 1.5 }, retry_config: quickly },
      { type: 'fibonacci', payload: { input: 40, recursive: true }, retry_config: quickly },
      { type: 'noop', resource_requirements: { cpu_units: 2 } },
    ]);
    const [sleeping, computing, waiting] = jobs.map(({ job_id }) => job_id) as [string, string, string];
    await Promise.all([service.jobIn('running', sleeping), service.jobIn('running', computing)]);
    await service.end(converter, 'SIGKILL');
    expect((await service.get(`/jobs/${waiting}`)).attempts).toEqual([]);
    converter = await replace(converter);
    for (const id of [sleeping, computing]) {
      const done = await service.jobDone(id, 40_000);
      expect(done).toMatchObject({ status: 'completed', error: null });
      expect(outcomes(done)).toEqual([
        ['failed', 'converter_lost'],
        ['completed', null],
      ]);
    }
    expect(outcomes(await service.jobDone(waiting))).toEqual([['completed', null]]);
  });

  test('that is killed by a job each time it runs it ends that job as a dead letter', async () => {
    const [deadly, dependant] = await service.submit([
      { job_id: 'deadly', type: 'deadly', retry_config: { ...quickly, max_attempts: 2 } },
      { job_id: 'after-deadly', type: 'noop', depends_on: ['deadly'] },
    ]);
    for (let death = 1; death <= 2; death++) {
      if (converter.signalCode === null) await once(converter, 'exit');
      expect(converter.signalCode).toBe('SIGKILL');
      await service.forget(converter);
      // The job may kill it before it is ready.
      converter = service.launchConverter();
    }
    const done = await service.jobDone(deadly.job_id);
    expect(done).toMatchObject({ status: 'failed', error: { code: 'converter_lost' } });
    expect(outcomes(done)).toEqual([
      ['failed', 'converter_lost'],
      ['failed', 'converter_lost'],
    ]);
    expect((await service.jobDone(dependant.job_id)).error.code).toBe('dependency_failed');
    const { items } = await service.get('/jobs?status=failed&type=deadly');
    expect(items.map(({ job_id }: Json) => job_id)).toEqual(['deadly']);
    // The converter that found it so lives on.
    const next = await service.submit({ type: 'noop' });
    expect((await service.jobDone(next.job_id)).status).toBe('completed');
  });

  /** Starts another, which finds the killed one lost at once. */
  async function replace(killed: ChildProcess): Promise<ChildProcess> {
    await service.forget(killed);
    return service.startConverter();
  }
});
