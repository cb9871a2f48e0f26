import { createHash } from 'node:crypto';
import { createClient } from '@redis/client';
import { openStatusCache, type StatusCache, type StatusDocument } from '../../../api/http/status-cache.ts';
import { createLogger } from '../../../runtime/log.ts';
import { makeImage, RED } from '../../support/files.ts';
import { hasRedis, startRedis } from '../../support/redis.ts';
import { type Json, type Service, startService, until } from '../../support/service.ts';

const describeWithRedis = hasRedis ? describe : describe.skip;
if (!hasRedis) process.stderr.write('no redis-server on this machine: its tests are skipped\n');

const log = createLogger('silent', {});
const ENDED: StatusDocument = { owner: 'alice', done: true, isCacheable: true, body: { status: 'completed' } };

/** True if a read is answered from the cache. */
async function isCached(cache: StatusCache, key: string): Promise<boolean> {
  let missed = false;
  await cache.through(key, async () => {
    missed = true;
    return undefined;
  });
  return !missed;
}

async function fill(cache: StatusCache, key: string, document = ENDED): Promise<void> {
  // The first read after a start finds no generation, and makes one.
  await until(async () => {
    await cache.through(key, async () => document);
    return isCached(cache, key);
  });
}

test('without Redis nothing is cached', async () => {
  const cache = await openStatusCache(undefined, log);
  expect(await cache.through('a', async () => ENDED)).toBe(ENDED);
  expect(await isCached(cache, 'a')).toBe(false);
  await cache.invalidate();
  cache.close();
});

describeWithRedis('with Redis', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>;
  let cache: StatusCache;
  let other: StatusCache;
  beforeAll(async () => {
    redis = await startRedis();
    cache = await openStatusCache(redis.url, log);
    other = await openStatusCache(redis.url, log);
  });
  afterAll(async () => {
    cache.close();
    other.close();
    await redis.stop();
  });

  test('small documents of ended jobs are cached for a minute for all processes, others are not', async () => {
    await fill(cache, 'ended');
    expect(await other.through('ended', async () => undefined)).toEqual(ENDED);
    const large = { ...ENDED, body: { result: 'x'.repeat(8_192) } };
    for (const document of [{ ...ENDED, isCacheable: false }, large, undefined]) {
      expect(await cache.through('not-kept', async () => document)).toBe(document);
      await fill(cache, 'later');
      expect(await isCached(cache, 'not-kept')).toBe(false);
      await cache.invalidate();
    }

    await fill(cache, 'ended');
    const client = createClient({ url: redis.url });
    await client.connect();
    const keys = await client.keys('*:ended');
    const ttl = await client.pTTL(`${keys[0]}`);
    client.destroy();
    expect(ttl).toBeGreaterThan(0);
    expect(ttl).toBeLessThanOrEqual(60_000);
  });

  test('an invalidation applies to all processes, and to reads that started before it', async () => {
    await fill(cache, 'a');
    await other.invalidate();
    expect(await isCached(cache, 'a')).toBe(false);

    await fill(cache, 'b');
    await cache.through('a', async () => {
      await other.invalidate();
      return ENDED;
    });
    await fill(cache, 'b');
    expect(await isCached(cache, 'a')).toBe(false);
    expect(await isCached(other, 'a')).toBe(false);
  });

  test('a Redis that hangs or stops is a miss, and is used again when it is back', async () => {
    await fill(cache, 'a');
    redis.pause();
    expect(await cache.through('a', async () => undefined)).toBeUndefined();
    await cache.invalidate();
    redis.resume();
    await fill(cache, 'a');

    await redis.kill();
    expect(await cache.through('a', async () => undefined)).toBeUndefined();
    await cache.invalidate();
    await redis.start();
    await fill(cache, 'a');
    await fill(other, 'a');
  });
});

describeWithRedis('two API processes that share a cache', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>;
  let service: Service;
  let urls: string[];
  beforeAll(async () => {
    redis = await startRedis();
    const keys = ['alice', 'bob'].map((name) => ({
      name,
      sha256: createHash('sha256').update(name).digest('hex'),
      scopes: ['uploads:read', 'uploads:write', 'jobs:*'],
    }));
    service = await startService({
      converters: 0,
      env: { TASKS: './examples/tasks/index.ts', API_KEYS: JSON.stringify(keys), REDIS_URL: redis.url },
    });
    urls = [service.url, (await service.startOtherApi()).url];
  });
  afterAll(async () => {
    await service.stop();
    await redis.stop();
  });

  const headersOf = (name: string) => ({ Authorization: `Bearer ${name}` });
  async function read(url: string, name: string): Promise<Json> {
    const response = await fetch(url, { headers: headersOf(name), signal: AbortSignal.timeout(5_000) });
    return { httpStatus: response.status, ...((await response.json()) as Json) };
  }

  /** Reads until an answer arrives while `table` is locked. */
  async function expectCached(route: string, table: string): Promise<void> {
    const client = await service.pool.connect();
    try {
      await until(async () => {
        await read(`${urls[0]}${route}`, 'alice');
        await client.query(`begin; lock table ${table} in access exclusive mode`);
        const answered = await fetch(`${urls[1]}${route}`, {
          headers: headersOf('alice'),
          signal: AbortSignal.timeout(1_000),
        }).then(
          ({ ok }) => ok,
          () => false,
        );
        // The other owner learns nothing from the cache, and needs no table for it.
        if (answered) expect((await read(`${urls[1]}${route}`, 'bob')).httpStatus).toBe(404);
        await client.query('rollback');
        return answered;
      });
    } finally {
      await client.query('rollback');
      client.release();
    }
  }

  test('give an ended job only to its owner, and show a retry at once', async () => {
    const { body } = await service.send('POST', '/jobs', { type: 'noop' }, headersOf('alice'));
    const route = `/jobs/${body.job_id}`;
    for (let round = 0; round < 2; round++) {
      expect((await service.send('PATCH', `${route}/cancel`, undefined, headersOf('alice'))).status).toBe(200);
      await expectCached(route, 'jobs');
      expect((await service.send('POST', `${route}/retry`, undefined, headersOf('alice'))).status).toBe(200);
      for (const url of urls)
        expect(await read(url + route, 'alice')).toMatchObject({ httpStatus: 200, status: 'ready' });
    }
    await service.send('PATCH', `${route}/cancel`, undefined, headersOf('alice'));
    await expectCached(route, 'jobs');
    const all = await service.send('POST', '/jobs/retry', { status: 'cancelled' }, headersOf('alice'));
    expect(all.body).toMatchObject({ count: 1, done: 1, status: 'completed' });
    for (const url of urls) expect(await read(url + route, 'alice')).toMatchObject({ status: 'ready' });
  });

  test('show a job that is retried in the background at once', async () => {
    const priorities = ['high', 'low'];
    let id = '';
    for (const priority of priorities) {
      const newJob = { type: 'noop', priority, run_at: '2040-01-01T00:00:00Z' };
      const { body } = await service.send('POST', '/jobs', Array(75).fill(newJob), headersOf('alice'));
      id = body.items[0].job_id;
      await service.send('POST', '/jobs/cancel', { priority }, headersOf('alice'));
    }
    const { body } = await service.send('POST', '/jobs/retry', { status: 'cancelled' }, headersOf('alice'));
    expect(body.status).toBe('running');
    for (const url of [...urls, ...urls])
      expect(await read(`${url}/jobs/${id}`, 'alice')).toMatchObject({ status: 'cancelled' });
    const converter = await service.startConverter();
    await until(async () => (await read(`${urls[0]}/jobs/bulk/${body.id}`, 'alice')).status === 'completed');
    for (const url of urls) expect(await read(`${url}/jobs/${id}`, 'alice')).toMatchObject({ status: 'scheduled' });
    await service.end(converter);
  });

  test('show a retry and a deletion of an upload at once', async () => {
    const png = await makeImage({ width: 9, height: 9, color: RED });
    const { body } = await service.upload([['a.png', png]], {}, headersOf('alice'));
    const route = `/uploads/${body.id}`;
    await service.send('POST', `${route}/cancel`, undefined, headersOf('alice'));
    await expectCached(`${route}/status`, 'uploads');
    expect((await service.send('POST', `${route}/retry`, undefined, headersOf('alice'))).status).toBe(200);
    for (const url of urls) expect((await read(`${url}${route}/status`, 'alice')).done).toBe(false);

    await service.send('POST', `${route}/cancel`, undefined, headersOf('alice'));
    await expectCached(`${route}/status`, 'uploads');
    expect((await service.send('DELETE', route, undefined, headersOf('alice'))).status).toBe(204);
    for (const url of urls) expect((await read(`${url}${route}/status`, 'alice')).httpStatus).toBe(404);
  });
});
