import { randomBytes } from 'node:crypto';
import { Agent, get as httpGet } from 'node:http';
import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import autocannon from 'autocannon';
import sharp from 'sharp';
import { bench, folder, say, signal } from './bench.ts';
import { fillUploads } from './fill.ts';
import { type Service, startService } from './service.ts';
import { describeMachine, type Row, toMarkdown } from './table.ts';

/**
 * `npm run bench:http`: statuses that one API process serves in a second with a million uploads in the tables, small
 * uploads that it accepts, and the memory of clients that wait. Prints Markdown; docs/evaluation_results.md describes the
 * method. BENCH_REDIS_URL adds statuses from Redis.
 */
const UPLOADS = Number(process.env.BENCH_UPLOADS ?? 1_000_000);
const SECONDS = Number(process.env.BENCH_SECONDS ?? 10);
const REDIS_URL = process.env.BENCH_REDIS_URL;
const WAITERS = Number(process.env.BENCH_WAITERS ?? 2_000);
const CONNECTIONS = 32;
/** The number of uploads that the clients poll in turn. */
const POLLED = 1_000;
const TARGETS = { statusesPerSecond: 4_000, statusP99Ms: 25, uploadsPerSecond: 300, waiterKb: 20 };

await bench(async () => {
  // Every upload must be accepted, although no converter runs.
  const service = await startService(folder, availableParallelism(), signal, {
    MAX_QUEUED_JOBS: '1000000000',
    MIN_FREE_MB: '0',
  });
  try {
    say(`filling in ${UPLOADS} uploads`);
    const ids = await fillUploads(service.pool, { finished: UPLOADS, open: WAITERS });
    const { rows: ended } = await service.pool.query('select id from uploads where finished_at is not null limit $1', [
      POLLED,
    ]);
    const rows = [
      ...(await measureReads(
        service,
        ended.map(({ id }) => id),
      )),
      await measureWaiters(service, ids),
      await measureUploads(service),
    ];
    process.stdout.write(`${describeMachine({ 'Node.js': process.versions.node })}\n${toMarkdown(rows)}`);
  } finally {
    await service.stop();
  }
});

async function measureReads(service: Service, ids: string[]): Promise<Row[]> {
  const documents = ids.map((id) => `/uploads/${id}`);
  const statuses = documents.map((path) => `${path}/status`);
  const rows = await readsOf('documents, from Postgres', service.url, documents, false);
  rows.push(...(await readsOf('statuses, from Postgres', service.url, statuses)));
  if (REDIS_URL === undefined) {
    say('BENCH_REDIS_URL is not set: statuses from Redis are not measured');
    return rows;
  }
  await service.restartApi({ REDIS_URL });
  rows.push(...(await readsOf('statuses, from Redis', service.url, statuses)));
  await service.restartApi();
  return rows;
}

async function readsOf(what: string, url: string, paths: string[], withTargets = true): Promise<Row[]> {
  say(what);
  const requests = paths.map((path) => ({ method: 'GET' as const, path }));
  await run({ url, connections: CONNECTIONS, duration: Math.ceil(SECONDS / 5), requests });
  const { requests: answered, latency } = await run({ url, connections: CONNECTIONS, duration: SECONDS, requests });
  return [
    withTargets
      ? atLeast(`${what}, ${CONNECTIONS} clients`, answered.average, TARGETS.statusesPerSecond, '/s')
      : { what: `${what}, ${CONNECTIONS} clients`, ours: `${answered.average.toFixed(0)} /s`, other: '' },
    withTargets
      ? atMost(`${what}, p99`, latency.p99, TARGETS.statusP99Ms, 'ms')
      : { what: `${what}, p99`, ours: `${latency.p99} ms`, other: '' },
  ];
}

/** The additional memory of the API while clients wait, each for a different upload on a separate connection. */
async function measureWaiters({ url, residentMb }: Service, ids: string[]): Promise<Row> {
  say(`${WAITERS} waiters`);
  await delay(2_000, undefined, { signal });
  const before = residentMb().api;
  const agent = new Agent({ maxSockets: Infinity });
  const waiting = ids.slice(0, WAITERS).map((id) => {
    const request = httpGet(`${url}/uploads/${id}/status`, { agent, headers: { Prefer: 'wait=60' } }, (response) => {
      throw new Error(`answered with ${response.statusCode} while it should wait`);
    });
    return request.on('error', () => undefined);
  });
  await delay(10_000, undefined, { signal });
  const kb = ((residentMb().api - before) * 1024) / WAITERS;
  for (const request of waiting) request.destroy();
  agent.destroy();
  return atMost(`${WAITERS} clients that wait, resident memory of each`, kb, TARGETS.waiterKb, 'KB');
}

async function measureUploads({ url }: Service): Promise<Row> {
  say('uploads');
  const side = 130;
  const png = await sharp(randomBytes(side * side * 3), { raw: { width: side, height: side, channels: 3 } })
    .png()
    .toBuffer();
  const boundary = 'sheetmill-bench';
  const body = Buffer.concat([
    Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n`),
    png,
    Buffer.from(`\r\n--${boundary}--\r\n`),
  ]);
  const headers = { 'Content-Type': `multipart/form-data; boundary=${boundary}` };
  const { requests } = await run({
    url: `${url}/uploads`,
    method: 'POST',
    headers,
    body,
    connections: 8,
    duration: SECONDS,
  });
  return atLeast(
    `uploads of ${Math.round(png.length / 1000)} KB accepted, 8 clients`,
    requests.average,
    TARGETS.uploadsPerSecond,
    '/s',
  );
}

async function run(options: autocannon.Options): Promise<autocannon.Result> {
  signal.throwIfAborted();
  const result = await autocannon(options);
  if (result.non2xx > 0 || result.errors > 0) {
    throw new Error(`${result.non2xx} responses were not 2xx, ${result.errors} calls failed`);
  }
  return result;
}

function atLeast(what: string, value: number, target: number, unit: string): Row {
  return { what, ours: `${value.toFixed(0)} ${unit}`, other: `${target} ${unit}`, ratio: value / target, least: 1 };
}

function atMost(what: string, value: number, target: number, unit: string): Row {
  return { what, ours: `${value.toFixed(1)} ${unit}`, other: `${target} ${unit}`, ratio: value / target, most: 1 };
}
