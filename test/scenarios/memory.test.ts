import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { CONVERTER_MB } from '../../runtime/config.ts';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { makeImage } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';
import { commandOf, isAlive, processOf, sandboxesOf } from './processes.ts';

/** Jobs that take more memory, time or processes than they said: they end, and no neighbour notices. */

const CAPACITY_MB = 1536;
/** How far above its reservation a sandbox may be measured: what the watchdog lets pass between two looks. */
const OVER_MB = 16;
/** Two processes of a swarm: the one that is too many, and one that comes before the watchdog looks. */
const SWARM_OVER_MB = 180;

const describeWithProc = existsSync('/proc/self/smaps_rollup') ? describe : describe.skip;

describeWithProc('memory (needs /proc)', () => {
  let service: Service;
  let converter: ChildProcess;
  beforeAll(async () => {
    service = await startService({
      converters: 0,
      env: {
        TASKS: './test/scenarios/memory-filling-tasks.ts',
        CAPACITY_CPU: '8',
        CAPACITY_MEMORY_MB: String(CAPACITY_MB),
        SHUTDOWN_GRACE_SECONDS: '1',
      },
    });
    converter = await service.startConverter();
  });
  afterEach(() => expectNothingLeft(service));
  afterAll(async () => {
    const started = descendantsOf(converter.pid as number);
    await service.stop();
    expect(started.filter(isAlive)).toEqual([]);
  });

  const quickly = { initial_delay_seconds: 0 };

  function hungry(type: string, memory_mb: number, payload: Json = {}, rest: Json = {}): Json {
    return { type, payload, resource_requirements: { cpu_units: 1, memory_mb }, ...rest };
  }

  /** The processes that a job has logged. */
  async function processesToldBy({ job_id }: Json): Promise<{ pid: number; cwd: string }[]> {
    const { items } = await service.get(`/jobs/${job_id}/logs?limit=200`);
    return items.flatMap(({ data }: Json) => (data?.pid === undefined ? [] : [data]));
  }

  test('reservations that fill the capacity, all of them used, take no more than it', async () => {
    const sizes = [256, 256, 256, 384, 384];
    const jobs = await service.submit(
      sizes.map((size) => hungry('balloon', size, { megabytes: size - 16 }, { retry_config: { max_attempts: 1 } })),
    );
    for (const { job_id } of jobs) {
      await until(async () => (await service.jobIn('running', job_id)).progress?.done !== undefined);
    }
    const next = await service.submit(hungry('look_for', 256, { pids: [] }));

    const told = (await Promise.all(jobs.map(processesToldBy))).flat();
    const pids = [...new Set(told.flatMap((one) => processOf(converter.pid as number, one) ?? []))];
    // Idle sandboxes have made room.
    expect(
      sandboxesOf(converter.pid as number)
        .filter(isAlive)
        .sort(),
    ).toEqual(pids.sort());
    const heldMb = pids.map(proportionalMb).reduce((sum, megabytes) => sum + megabytes);
    expect(heldMb).toBeLessThanOrEqual(CAPACITY_MB);
    expect(heldMb).toBeGreaterThan(CAPACITY_MB * 0.65);
    expect(proportionalMb(converter.pid as number)).toBeLessThanOrEqual(CONVERTER_MB);
    const { converters } = await service.get('/system');
    expect(converters).toMatchObject([
      { capacity: { memory_mb: CAPACITY_MB }, reserved: { cpu_units: 5, memory_mb: CAPACITY_MB }, running: 5 },
    ]);
    expect((await service.get(`/jobs/${next.job_id}`)).status).toBe('ready');

    for (const { job_id } of jobs) expect((await service.patch(`/jobs/${job_id}/cancel`)).status).toBe(200);
    expect(await service.jobDone(next.job_id)).toMatchObject({ status: 'completed' });
    await until(async () => !pids.some(isAlive));
  });

  test('a job that needs more than it asked for completes at its second attempt, with the next class', async () => {
    const balloon = hungry('balloon', 256, { megabytes: 300, hold: false }, { retry_config: quickly });
    const { job_id } = await service.submit(balloon);
    const done = await service.jobDone(job_id);
    expect(done).toMatchObject({ status: 'completed', error: null, resource_requirements: { memory_mb: 384 } });
    expect(done.attempts).toMatchObject([
      { attempt: 1, status: 'failed', memory_mb: 256, error: { code: 'out_of_memory' } },
      { attempt: 2, status: 'completed', memory_mb: 384, error: null },
    ]);
    expect(done.attempts[1].peak_memory_mb).toBeGreaterThanOrEqual(300);
    expect(done.attempts[1].peak_memory_mb).toBeLessThanOrEqual(384);
  });

  test('jobs that leak, fork or never end fail with their codes, and their neighbours do not notice', async () => {
    const retry_config = { ...quickly, max_attempts: 3 };
    const leaking = await service.submit([
      ...['leak_native', 'leak_heap', 'leak_wasm'].map((type) => hungry(type, 256, {}, { retry_config })),
      hungry('swarm', 256, { children: 20, megabytes: 30 }, { retry_config }),
    ]);
    const [stuck, litter] = await service.submit([
      hungry('stuck', 256, {}, { timeout_seconds: 1, retry_config: { ...quickly, max_attempts: 2 } }),
      hungry('litter', 256),
    ]);
    const ending = Promise.all([...leaking, stuck, litter].map(({ job_id }) => service.jobDone(job_id, 50_000)));
    const neighbours = await visitWhile(ending);
    const ended: Json[] = await ending;

    for (const { type, status, error, attempts } of ended.slice(0, leaking.length)) {
      expect({ type, status, code: error?.code }).toEqual({ type, status: 'failed', code: 'out_of_memory' });
      expect(attempts).toMatchObject(
        [256, 384, 512].map((memory_mb) => ({ status: 'failed', memory_mb, error: { code: 'out_of_memory' } })),
      );
      for (const { memory_mb, peak_memory_mb } of attempts) {
        expect(peak_memory_mb).toBeGreaterThan(memory_mb * 0.75);
        expect(peak_memory_mb).toBeLessThanOrEqual(memory_mb + (type === 'swarm' ? SWARM_OVER_MB : OVER_MB));
      }
    }
    const [ofStuck, ofLitter] = ended.slice(leaking.length);
    expect(ofStuck).toMatchObject({ status: 'failed', error: { code: 'timeout' } });
    expect(ofStuck.attempts).toMatchObject([
      { status: 'failed', memory_mb: 256, error: { code: 'timeout' } },
      { status: 'failed', memory_mb: 256, error: { code: 'timeout' } },
    ]);
    expect(ofLitter).toMatchObject({ status: 'completed' });
    expect((await Promise.all(leaking.map(processesToldBy))).flat().length).toBeGreaterThan(10);
    // Nothing is left but sandboxes and what holds their namespaces.
    const isStray = (one: number) => isAlive(one) && !commandOf(one).includes('sandbox/child.ts');
    await until(async () => !descendantsOf(converter.pid as number).some(isStray));

    expect(neighbours.length).toBeGreaterThan(2);
    for (const job of neighbours) {
      expect(job).toMatchObject({ status: 'completed', attempts: [{ status: 'completed' }] });
      expect(job.attempts).toHaveLength(1);
    }
    expect(isAlive(converter.pid as number)).toBe(true);
  });

  /** Converts one small image after another, and hashes it, until something else has ended; gives all these jobs. */
  async function visitWhile(ending: Promise<unknown>): Promise<Json[]> {
    let ended = false;
    const noteEnd = () => {
      ended = true;
    };
    ending.then(noteEnd, noteEnd);
    const visits: Json[] = [];
    while (!ended) {
      const { status, body } = await service.upload([['small.png', await makeImage()]]);
      expect(status).toBe(200);
      const hash = await service.submit({ type: 'checksum', payload: { upload_id: body.id, rounds: 100 } });
      expect(await service.done(body.id)).toMatchObject({ status: 'completed', progress: { pages_done: 1 } });
      const { items } = await service.get(`/jobs?upload_id=${body.id}`);
      expect(items.map(({ type }: Json) => type)).toContain('convert');
      const ids = new Set<string>([hash.job_id, ...items.map(({ job_id }: Json) => job_id)]);
      visits.push(...(await Promise.all([...ids].map((id) => service.jobDone(id)))));
    }
    return visits;
  }
});

/** Resident memory of a process in MB, in which what several share counts once. */
function proportionalMb(pid: number): number {
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]) / 1024;
}
