import { randomUUID } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import type { Pool } from 'pg';
import { Retention } from '../conversion/retention.ts';
import { openDatabase } from '../db/client.ts';
import { migrateDatabase } from '../db/migrate.ts';
import { openQueues } from '../db/queues.ts';
import { createLogger } from '../runtime/log.ts';
import { openDiskStore } from '../store/disk.ts';
import { uploadFolder } from '../store/paths.ts';
import { bench, folder, say, signal } from './bench.ts';
import { fillTables, fillUploads } from './fill.ts';
import { installStatistics, startWithAdmin } from './superuser.ts';
import { describeMachine, type Row, toMarkdown } from './table.ts';

/**
 * `npm run bench:retention`: how fast one and two converters delete uploads with empty files, jobs with an attempt and
 * three events each, and events, and how long small writes wait meanwhile. Prints Markdown.
 */
const UPLOADS = Number(process.env.BENCH_UPLOADS ?? 10_000);
const JOBS = Number(process.env.BENCH_JOBS ?? 200_000);
const MIN_UPLOADS_PER_SECOND = 200;
const MIN_JOBS_PER_SECOND = 5_000;
const MAX_STATEMENT_MS = 2_000;
const PROBE_MS = 20;
const DAYS = 1;

interface Figures {
  uploadsPerSecond: number;
  jobsPerSecond: number;
  eventsPerSecond: number;
  longestStatementMs: number;
  /** A foreground write, every `PROBE_MS`, while jobs are deleted. */
  probes: number[];
}

await bench(async () => {
  const postgres = await startWithAdmin(path.join(folder, 'postgres'), ['shared_preload_libraries=pg_stat_statements']);
  try {
    await migrateDatabase(postgres.url);
    const log = createLogger('warn', { process: 'bench' });
    const { db, pool, close } = await openDatabase(postgres.url, { name: 'sheetmill-bench', log, max: 10 });
    const queues = await openQueues(db, { supervise: false, log });
    try {
      await installStatistics(postgres.adminUrl);
      const store = await openDiskStore(path.join(folder, 'store'));
      const idle = await probeFor(pool, async () => void (await new Promise((resolve) => setTimeout(resolve, 2_000))));
      const measured: Figures[] = [];
      for (const converters of [1, 2]) {
        say(`${converters} at work`);
        const round = async () => {
          const parts = { db, queues, store, log };
          await Promise.all(Array.from({ length: converters }, () => new Retention(parts, DAYS).round(signal)));
        };
        measured.push(await measure(pool, round));
      }
      process.stdout.write(
        `${describeMachine({ 'Node.js': process.versions.node })}\n${toMarkdown(rowsOf(measured, idle))}`,
      );
    } finally {
      await queues.close();
      await close();
    }
  } finally {
    await postgres.stop();
  }
});

async function measure(pool: Pool, round: () => Promise<void>): Promise<Figures> {
  await fillUploads(pool, { finished: UPLOADS, open: 0 });
  await fillConversions(pool);
  await pool.query(`update uploads set finished_at = finished_at - interval '30 days'`);
  await makeFiles(pool);
  await settle(pool);
  const uploads = await timed(pool, round);
  await expectGone(pool, 'uploads');

  await fillTables(pool, { finished: JOBS, waiting: 0 });
  await pool.query(`update jobs set finished_at = finished_at - interval '30 days'`);
  await settle(pool);
  let jobs = { seconds: 0, longestMs: 0 };
  // The events of these jobs are kept: they are new.
  const probes = await probeFor(pool, async () => {
    jobs = await timed(pool, round);
  });
  await expectGone(pool, 'jobs');

  const { rowCount } = await pool.query(`update events set at = now() - interval '30 days'`);
  await settle(pool);
  const events = await timed(pool, round);
  await expectGone(pool, 'events');
  return {
    uploadsPerSecond: UPLOADS / uploads.seconds,
    jobsPerSecond: JOBS / jobs.seconds,
    eventsPerSecond: (rowCount ?? 0) / events.seconds,
    longestStatementMs: Math.max(uploads.longestMs, jobs.longestMs, events.longestMs),
    probes,
  };
}

/** Inserts for each upload the job, the attempt and the seven events of a conversion of one page. */
async function fillConversions(pool: Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('set session_replication_role = replica');
    await client.query(
      `insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, attempt, max_attempts, initial_delay_seconds,
         backoff_multiplier, timeout_seconds, upload_id, original, created_at, finished_at)
       select 'of_' || id, 'convert', 'normal', created_at, '{}', 1, 256, 'completed', 1, 3, 1, 2, 300, id, 1, created_at, finished_at from uploads`,
    );
    await client.query(
      `insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb, finished_at)
       select id, 1, 'completed', gen_random_uuid(), 'past-1', 1, 256, finished_at from jobs where upload_id is not null`,
    );
    await client.query(
      `insert into events (kind, job_id, upload_id, status)
       select 'job', id, upload_id, step from jobs, unnest(array['ready', 'running', 'completed']) step where upload_id is not null`,
    );
    await client.query(
      `insert into events (kind, upload_id, status)
       select 'upload', id, step from uploads, unnest(array['queued', 'processing', 'processing', 'completed']) step`,
    );
  } finally {
    client.release(true);
  }
}

/** Vacuums and writes pages before the measured time. */
async function settle(pool: Pool): Promise<void> {
  await pool.query('vacuum analyze');
  await pool.query('checkpoint');
}

/** The duration of `work`, and of the longest statement meanwhile. */
async function timed(pool: Pool, work: () => Promise<void>): Promise<{ seconds: number; longestMs: number }> {
  await pool.query('select pg_stat_statements_reset()');
  const began = performance.now();
  await work();
  const seconds = (performance.now() - began) / 1000;
  const { rows } = await pool.query('select max(max_exec_time) as ms from pg_stat_statements');
  return { seconds, longestMs: Number(rows[0].ms) };
}

function rowsOf([one, two]: Figures[], idle: number[]): Row[] {
  if (one === undefined || two === undefined) return [];
  const rate = (
    what: string,
    key: 'uploadsPerSecond' | 'jobsPerSecond' | 'eventsPerSecond',
    target?: number,
  ): Row[] => [
    ...(target === undefined
      ? []
      : [
          {
            what: `${what} a second, one converter, beside what is asked for`,
            ours: one[key].toFixed(0),
            other: String(target),
            ratio: one[key] / target,
            least: 1,
          },
        ]),
    {
      what: `${what} a second, two converters beside one (${availableParallelism()} cores)`,
      ours: two[key].toFixed(0),
      other: one[key].toFixed(0),
      ratio: two[key] / one[key],
    },
  ];
  const percentile = (times: number[], percent: number) =>
    times.toSorted((a, b) => a - b)[Math.floor((times.length * percent) / 100)] ?? 0;
  const probe = (percent: number): Row => ({
    what: `a small write while jobs are deleted, p${percent}, beside an idle Postgres`,
    ours: `${percentile(one.probes, percent).toFixed(1)} ms`,
    other: `${percentile(idle, percent).toFixed(1)} ms`,
    ratio: percentile(one.probes, percent) / percentile(idle, percent),
  });
  return [
    ...rate('uploads', 'uploadsPerSecond', MIN_UPLOADS_PER_SECOND),
    ...rate('jobs', 'jobsPerSecond', MIN_JOBS_PER_SECOND),
    ...rate('events', 'eventsPerSecond'),
    {
      what: 'longest statement',
      ours: `${one.longestStatementMs.toFixed(0)} ms`,
      other: `${MAX_STATEMENT_MS} ms`,
      ratio: one.longestStatementMs / MAX_STATEMENT_MS,
      most: 1,
    },
    probe(50),
    probe(99),
  ];
}

/** Writes empty files, as many as an upload of one page has. */
async function makeFiles(pool: Pool): Promise<void> {
  const { rows } = await pool.query('select id from uploads');
  for (const { id } of rows) {
    for (const file of ['originals/1.pdf', 'pages/1-0001.1.png']) {
      const target = path.join(folder, 'store', uploadFolder(id), file);
      await mkdir(path.dirname(target), { recursive: true });
      await writeFile(target, '');
    }
  }
}

async function expectGone(pool: Pool, table: string): Promise<void> {
  const { rows } = await pool.query(`select count(*)::int as left from ${table}`);
  // One event of each upload stays: that it was deleted.
  if (table !== 'events' && rows[0].left > 0) throw new Error(`${rows[0].left} ${table} are left`);
}

/** The durations of small writes while `work` runs, in ms. */
async function probeFor(pool: Pool, work: () => Promise<void>): Promise<number[]> {
  const times: number[] = [];
  let ended = false;
  const probing = (async () => {
    while (!ended && !signal.aborted) {
      const began = performance.now();
      await pool.query(`insert into idempotency_keys (owner, key, locked_until) values ('bench', $1, now())`, [
        randomUUID(),
      ]);
      times.push(performance.now() - began);
      await new Promise((resolve) => setTimeout(resolve, PROBE_MS));
    }
  })();
  await work();
  ended = true;
  await probing;
  return times;
}
