import { randomUUID } from 'node:crypto';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { conversionDomain } from '../conversion/domain.ts';
import { openDatabase } from '../db/client.ts';
import { openQueues } from '../db/queues.ts';
import { converters } from '../db/schema.ts';
import { type ClaimedJob, claimJobs } from '../jobs/claim.ts';
import { registerDomain } from '../jobs/domain.ts';
import { settleAttempts } from '../jobs/settle.ts';
import { createLogger } from '../runtime/log.ts';
import { bench, folder, say, signal } from './bench.ts';
import { fillTables } from './fill.ts';
import { type Service, startService } from './service.ts';
import { describeMachine, type Row, toMarkdown } from './table.ts';

/**
 * `npm run bench:jobs`: the job engine with empty tables, and with a million finished and a hundred thousand waiting
 * jobs, in one run on this machine. Prints Markdown; docs/evaluation_results.md describes the method.
 */
const FINISHED = Number(process.env.BENCH_FINISHED ?? 1_000_000);
const WAITING = Number(process.env.BENCH_WAITING ?? 100_000);
const BATCH = 1_000;
const DRAINED = 5_000;
const SINGLE_CALLS = 1_000;
const IN_FLIGHT = 8;
const PROBES = 200;
const NOOP = { type: 'noop' };

/** The figures of a round: jobs/s are better when higher, all others when lower. */
type Figures = Record<string, { value: number; unit: 'jobs/s' | 'ms' | 'MB'; target?: number }>;

registerDomain(conversionDomain);
await bench(async () => {
  const TASKS = path.resolve(import.meta.dirname, '../examples/tasks/index.ts');
  // The limit must allow the jobs that the bench inserts.
  const env = { TASKS, CAPACITY_MEMORY_MB: '16384', MAX_QUEUED_JOBS: String(2 * WAITING) };
  const service = await startService(folder, availableParallelism(), signal, env);
  try {
    say('empty tables');
    const empty = await measure(service);
    say(`filling in ${FINISHED} finished and ${WAITING} waiting jobs`);
    await fillTables(service.pool, { finished: FINISHED, waiting: WAITING });
    say('full tables');
    const full = await measure(service);
    process.stdout.write(
      `${describeMachine({ 'Node.js': process.versions.node })}\n${toMarkdown(compare(empty, full))}`,
    );
  } finally {
    await service.stop();
  }
});

/** All figures of one round. */
async function measure(service: Service): Promise<Figures> {
  const { url } = service;
  await service.stopConverter();
  const accept: number[] = [];
  for (let run = 0; run < DRAINED / BATCH; run++) accept.push(await timed(() => submit(url, Array(BATCH).fill(NOOP))));

  await service.restartConverter();
  const before = service.residentMb();
  const drained = await rateOf(service, DRAINED);

  const calls: number[] = [];
  let left = SINGLE_CALLS;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: IN_FLIGHT }, async () => {
      while (left-- > 0) calls.push(await timed(() => submit(url, NOOP)));
    }),
  );
  const callsPerSecond = SINGLE_CALLS / ((performance.now() - began) / 1000);
  await ended(service);
  const loaded = service.residentMb();

  const starts: number[] = [];
  for (let probe = 0; probe < PROBES; probe++) {
    const sent = Date.now();
    const { job_id } = await submit(url, NOOP);
    await ended(service);
    const { rows } = await service.pool.query('select started_at from jobs where id = $1', [job_id]);
    starts.push(rows[0].started_at.getTime() - sent);
  }
  const queries = await timeQueries(url);
  await service.stopConverter();
  const engine = await timeEngine(service);
  return {
    [`${BATCH} jobs accepted as a batch, p50`]: { value: percentile(accept, 50), unit: 'ms', target: 250 },
    [`${BATCH} jobs accepted as a batch, slowest`]: { value: Math.max(...accept), unit: 'ms' },
    [`${SINGLE_CALLS} single submits, ${IN_FLIGHT} at a time, while they are drained`]: {
      value: callsPerSecond,
      unit: 'jobs/s',
    },
    ...percentiles('single submit', calls),
    [`${DRAINED} no-op jobs drained by one converter`]: { value: drained, unit: 'jobs/s', target: 1_200 },
    'submit to start, idle, p50': { value: percentile(starts, 50), unit: 'ms', target: 25 },
    'submit to start, idle, p99': { value: percentile(starts, 99), unit: 'ms' },
    ...percentiles('claim of one', engine.claims),
    ...percentiles('settle of one', engine.settles),
    ...Object.assign({}, ...Object.entries(queries).map(([name, times]) => percentiles(name, times))),
    'API resident, idle': { value: before.api, unit: 'MB' },
    'API resident, after the load': { value: loaded.api, unit: 'MB' },
    'converter resident, idle': { value: before.converter, unit: 'MB' },
    'converter resident, after the load': { value: loaded.converter, unit: 'MB' },
  };
}

/** Jobs per second of the last `count` jobs, from the first start to the last end. */
async function rateOf(service: Service, count: number): Promise<number> {
  await ended(service);
  const { rows } = await service.pool.query(
    `select $1 / extract(epoch from max(finished_at) - min(started_at)) as rate from (
       select started_at, finished_at from jobs where type = 'noop' order by created_at desc limit $1) last`,
    [count],
  );
  return Number(rows[0].rate);
}

/** Waits until no no-op job is ready or running. */
async function ended(service: Service): Promise<void> {
  for (;;) {
    const { rowCount } = await service.pool.query(
      `select 1 from jobs where status in ('ready', 'running') and type = 'noop' and cpu_units = 0 and memory_mb = 256 limit 1`,
    );
    if (rowCount === 0) return;
    await delay(5, undefined, { signal });
  }
}

/** Times claims and settlements of one job each, without a converter process or HTTP. */
async function timeEngine(service: Service): Promise<{ claims: number[]; settles: number[] }> {
  const log = createLogger('warn', {});
  const database = await openDatabase(service.databaseUrl, { name: 'bench', log });
  const queues = await openQueues(database.db, { supervise: false, log });
  const claims: number[] = [];
  const settles: number[] = [];
  try {
    const converter = { id: randomUUID(), name: 'bench' };
    const capacity = { cpuUnits: 1, memoryMb: 256 };
    const claimant = { ...converter, capacity, types: [NOOP.type], running: [] };
    await database.db.insert(converters).values({ ...converter, ...capacity });
    await submit(service.url, Array(PROBES).fill(NOOP));
    for (let probe = 0; probe < PROBES; probe++) {
      let claimed: ClaimedJob[] = [];
      claims.push(
        await timed(async () => {
          claimed = (await claimJobs(database.db, queues, claimant)).started;
        }),
      );
      const settlements = claimed.map((attempt) => ({
        attempt,
        outcome: { kind: 'completed' as const, result: {} },
        peakMemoryMb: null,
      }));
      settles.push(await timed(() => settleAttempts(database.db, queues, settlements)));
    }
    await service.pool.query(`update converters set status = 'stopped' where id = $1`, [converter.id]);
  } finally {
    await queues.close();
    await database.close();
  }
  return { claims, settles };
}

async function timeQueries(url: string): Promise<Record<string, number[]>> {
  const { items } = await get(`${url}/jobs?type=noop&limit=1`);
  const id = items[0].job_id;
  const form = new FormData();
  const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
  form.append('file', new Blob([Buffer.from(png, 'base64')]), 'a.png');
  const upload = await get(`${url}/uploads`, { method: 'POST', body: form });
  const routes = {
    'list, newest': '/jobs',
    'list, by status': '/jobs?status=completed',
    'list, by type and priority': '/jobs?type=noop&priority=low',
    detail: `/jobs/${id}`,
    logs: `/jobs/${id}/logs`,
    'upload status': `/uploads/${upload.id}/status`,
    system: '/system',
  };
  const times: Record<string, number[]> = {};
  for (const [name, route] of Object.entries(routes)) {
    times[name] = [];
    for (let probe = 0; probe < PROBES; probe++) times[name].push(await timed(() => get(url + route)));
  }
  return times;
}

function compare(empty: Figures, full: Figures): Row[] {
  return Object.entries(full).flatMap(([what, { value, unit, target }]) => {
    const other = empty[what]?.value ?? Number.NaN;
    const show = (figure: number) => `${figure.toFixed(figure < 100 ? 1 : 0)} ${unit}`;
    const higherIsBetter = unit === 'jobs/s';
    const limits = higherIsBetter ? { least: 2 / 3 } : { most: 3 / 2 };
    const rows: Row[] = [
      {
        what: `${what}: full tables against empty`,
        ours: show(value),
        other: show(other),
        ratio: value / other,
        ...limits,
      },
    ];
    if (target !== undefined) {
      rows.unshift({
        what: `${what}: empty tables against the target`,
        ours: show(other),
        other: show(target),
        ratio: other / target,
        ...(higherIsBetter ? { least: 1 } : { most: 1 }),
      });
    }
    return rows;
  });
}

function percentiles(what: string, times: number[]): Figures {
  return {
    [`${what}, p50`]: { value: percentile(times, 50), unit: 'ms' },
    [`${what}, p99`]: { value: percentile(times, 99), unit: 'ms' },
  };
}

function percentile(values: number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

// biome-ignore lint/suspicious/noExplicitAny: a client reads responses without our types.
async function submit(url: string, body: unknown): Promise<any> {
  const headers = { 'Content-Type': 'application/json' };
  return get(`${url}/jobs`, { method: 'POST', headers, body: JSON.stringify(body) });
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
async function get(url: string, options: RequestInit = {}): Promise<any> {
  const response = await fetch(url, { ...options, signal });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return response.json();
}
