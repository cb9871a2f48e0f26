import { setTimeout as delay } from 'node:timers/promises';
import { makeImage, RED } from '../support/files.ts';
import { hasRedis, startRedis } from '../support/redis.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';

const EXTRA = { TASKS: './examples/tasks/index.ts' };
const withRedis = hasRedis ? describe : describe.skip;
if (!hasRedis) process.stderr.write('no redis-server on this machine: its tests are skipped\n');

let png: Buffer;
beforeAll(async () => {
  png = await makeImage({ width: 9, height: 9, color: RED });
});

async function uploaded(service: Service): Promise<string> {
  return (await service.upload([['a.png', png]])).body.id;
}

async function read(url: string): Promise<Json> {
  const response = await fetch(url, { signal: AbortSignal.timeout(10_000) });
  return { httpStatus: response.status, ...((await response.json()) as Json) };
}

/** Does work while nobody can read or write uploads in Postgres. */
async function whileUploadsAreLocked<T>(service: Service, work: () => Promise<T>): Promise<T> {
  const client = await service.pool.connect();
  try {
    await client.query('begin; lock table uploads in access exclusive mode');
    return await work();
  } finally {
    await client.query('rollback');
    client.release();
  }
}

/** Whether a status is answered without Postgres; tries for a while, since a copy is only trusted after some reads. */
async function answersWithoutPostgres(service: Service, url: string): Promise<boolean> {
  for (const deadline = Date.now() + 6_000; Date.now() < deadline; ) {
    await read(url);
    await delay(100);
    await read(url);
    const answered = await whileUploadsAreLocked(service, () =>
      fetch(url, { signal: AbortSignal.timeout(400) }).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
    if (answered) return true;
  }
  return false;
}

/**
 * Some clients read from all `urls` in turn while uploads and jobs move on and `disturb` does its work. Gives how many
 * answers there were, and those that were older than one that the same client had read.
 */
async function readWhileAllMoves(service: Service, urls: string[], disturb: () => Promise<void>) {
  const uploads = await Promise.all(Array.from({ length: 3 }, () => uploaded(service)));
  const jobs: Json[] = await service.submit(Array(2).fill({ type: 'noop' }));
  const jobIds = jobs.map(({ job_id }) => job_id);
  let over = false;
  let answers = 0;
  let slowest = 0;
  const older: string[] = [];

  async function move(): Promise<void> {
    while (!over) {
      await service.pool.query('update uploads set pages_done = pages_done + 1 where id = any($1)', [uploads]);
      await service.pool.query(
        `update jobs set progress = jsonb_build_object('done', coalesce((progress->>'done')::int, 0) + 1, 'total', null)
         where id = any($1)`,
        [jobIds],
      );
      await delay(Math.random() * 30);
    }
  }

  /** Events are read up to the oldest transaction that still writes: meanwhile nobody hears of any change. */
  async function deafen(): Promise<void> {
    const writing = await service.pool.connect();
    while (!over) {
      await writing.query('begin; select pg_current_xact_id()');
      await delay(400);
      await writing.query('commit');
      await delay(100);
    }
    writing.release();
  }

  async function client(): Promise<void> {
    const seen = new Map<string, number>();
    while (!over) {
      const url = urls[Math.floor(Math.random() * urls.length)];
      const kind = Math.random();
      const id = (kind < 0.7 ? uploads : jobIds)[Math.floor(Math.random() * 2)] as string;
      const route =
        kind < 0.5 ? `/uploads/${id}/status` : kind < 0.6 ? `/uploads/${id}` : kind < 0.7 ? '/uploads' : `/jobs/${id}`;
      const began = performance.now();
      const answer = await read(url + route);
      slowest = Math.max(slowest, performance.now() - began);
      if (answer.httpStatus !== 200) {
        older.push(`${route}: ${answer.httpStatus} ${answer.detail}`);
        continue;
      }
      answers++;
      for (const one of answer.items ?? [answer]) {
        const name = one.id ?? one.job_id;
        const done = kind < 0.7 ? one.progress.pages_done : (one.progress?.done ?? 0);
        if (done < (seen.get(name) ?? 0)) older.push(`${url}${route}: ${done} after ${seen.get(name)}`);
        seen.set(name, done);
      }
    }
  }

  const all = Promise.all([move(), deafen(), ...Array.from({ length: 4 }, client)]);
  try {
    await disturb();
    // On a slow machine it takes longer to have seen enough.
    await until(async () => answers > 100);
  } finally {
    over = true;
    await all;
    for (const id of jobIds) await service.patch(`/jobs/${id}/cancel`);
  }
  return { answers, older, slowest };
}

/** What one process changes, the other one tells at once. */
async function changeHereReadThere(service: Service, other: string): Promise<void> {
  const { job_id } = await service.submit({ type: 'noop' });
  for (let round = 0; round < 5; round++) {
    expect((await service.patch(`/jobs/${job_id}/cancel`)).status).toBe(200);
    expect(await read(`${other}/jobs/${job_id}`)).toMatchObject({ status: 'cancelled' });
    expect((await service.post(`/jobs/${job_id}/retry`)).status).toBe(200);
    expect(await read(`${other}/jobs/${job_id}`)).toMatchObject({ status: 'ready' });
  }
  await service.patch(`/jobs/${job_id}/cancel`);

  const id = await uploaded(service);
  await service.pool.query(`update uploads set status = 'completed', finished_at = now() where id = $1`, [id]);
  for (const url of [service.url, other, service.url, other]) await read(`${url}/uploads/${id}/status`);
  expect((await service.delete(`/uploads/${id}`)).status).toBe(204);
  for (const url of [other, service.url]) {
    expect(await read(`${url}/uploads/${id}/status`)).toMatchObject({ httpStatus: 404, code: 'not_found' });
  }
}

describe('without Redis', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ converters: 0, env: EXTRA });
  });
  afterAll(() => service.stop());

  test('one API answers statuses from memory, and tells of each change; two ask Postgres, and none tells what is older', async () => {
    const id = await uploaded(service);
    const url = `${service.url}/uploads/${id}/status`;
    expect(await answersWithoutPostgres(service, url)).toBe(true);
    await service.pool.query('update uploads set pages_done = 7 where id = $1', [id]);
    await until(async () => (await read(url)).progress.pages_done === 7);
    expect(await answersWithoutPostgres(service, url)).toBe(true);

    const alone = await readWhileAllMoves(service, [service.url], () => delay(3_000));
    expect(alone.older).toEqual([]);

    let other: Awaited<ReturnType<Service['startOtherApi']>> | undefined;
    const { older, answers } = await readWhileAllMoves(service, [service.url], async () => {
      other = await service.startOtherApi();
    });
    expect(older).toEqual([]);
    expect(answers).toBeGreaterThan(10);
    const both = [service.url, other?.url as string];
    const moved = await readWhileAllMoves(service, both, () => delay(4_000));
    expect(moved.older).toEqual([]);
    expect(moved.answers).toBeGreaterThan(50);
    expect(await answersWithoutPostgres(service, url)).toBe(false);
    await changeHereReadThere(service, other?.url as string);

    if (other) await service.end(other.child);
    expect(await answersWithoutPostgres(service, url)).toBe(true);
  });

  test('a lost session of the presence is opened again, and nothing older is told meanwhile', async () => {
    const other = await service.startOtherApi();
    const { older, answers } = await readWhileAllMoves(service, [service.url, other.url], async () => {
      for (let round = 0; round < 5; round++) {
        await delay(600);
        await service.pool.query(
          `select pg_terminate_backend(pid) from pg_stat_activity
           where application_name = 'sheetmill-presence' and datname = current_database() order by random() limit $1`,
          [round % 2 === 0 ? 1 : 2],
        );
      }
      await delay(600);
    });
    expect(older).toEqual([]);
    expect(answers).toBeGreaterThan(50);
    await service.end(other.child);
  });
});

withRedis('with Redis', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>;
  let service: Service;
  let other: string;
  beforeAll(async () => {
    redis = await startRedis();
    service = await startService({ converters: 0, env: { ...EXTRA, REDIS_URL: redis.url, LOG_LEVEL: 'fatal' } });
    other = (await service.startOtherApi()).url;
  });
  afterAll(async () => {
    await service.stop();
    await redis.stop();
  });

  test('two API processes answer from there, and each tells at once what the other one did', async () => {
    const id = await uploaded(service);
    for (const url of [service.url, other]) {
      expect(await answersWithoutPostgres(service, `${url}/uploads/${id}/status`)).toBe(true);
    }
    await changeHereReadThere(service, other);
  });

  test('a Redis that is killed, paused and started again makes nothing older, wrong or missing', async () => {
    const { older, answers, slowest } = await readWhileAllMoves(service, [service.url, other], async () => {
      await delay(2_000);
      await redis.kill();
      await delay(1_000);
      // What it had written to its disk is old by now.
      await redis.start();
      await delay(2_500);
      for (const ms of [30, 100, 400, 1_500]) {
        redis.pause();
        await delay(ms);
        redis.resume();
        await delay(1_000);
      }
    });
    expect(older).toEqual([]);
    expect(answers).toBeGreaterThan(100);
    // A moment, once for each outage; what else it takes is the machine's.
    expect(slowest).toBeLessThan(3_000);
    const id = await uploaded(service);
    expect(await answersWithoutPostgres(service, `${other}/uploads/${id}/status`)).toBe(true);
  });
});
