import { openAsBlob, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { MIN_DIRECTED } from '../../jobs/wake.ts';
import type { NormalFiles } from '../incident/normal-files.ts';
import { cpuSecondsOf, treesOf } from '../processes.ts';
import type { Service } from '../service.ts';
import { installStatistics } from '../superuser.ts';
import { type Cost, scaleCost, subtractCosts } from './costs.ts';

export interface Measured {
  costs: {
    accepting: Cost;
    /** One converter, in each second. */
    idleSecond: Cost;
    /** A converter that receives a wake-up for another and does not claim. */
    wake: Cost;
  };
  /** The cost of a job of each kind of upload, with its pages on average. */
  jobs: Record<'an image' | 'a PDF', { cost: Cost; pages: number }>;
  uploads: number;
  jobsEach: number;
  pagesEach: number;
  /** CPU of the converter and its sandboxes. */
  cpuSecondsEach: number;
  /** The connections of a converter while it converts. */
  connections: number;
}

/** Uploads that a converter has converted. */
interface Converted {
  cost: Cost;
  seconds: number;
  cpuSeconds: number;
  uploads: number;
  jobs: number;
  pages: number;
}

interface Bench {
  signal: AbortSignal;
  say: (line: string) => void;
}

/** Polling is rare, because the CPU of Postgres is measured. */
const POLL_MS = 1_000;
const IN_FLIGHT = 4;
/** Work that happens once a minute happens once in this time. */
const MINUTE_S = 60;
const BASE_S = 20;
const SETTLE_MS = 5_000;
/** Enough idle converters that one wakes another, and the jobs for which they wake. */
const IDLE = 2 * MIN_DIRECTED;
const WOKEN_JOBS = 50;
const COMMITTERS = 16;
const COMMITTING_MS = 3_000;

/** Measures each kind of work alone, on a service that does nothing else. */
export function measureCosts(service: Service, files: NormalFiles, bench: Bench): Promise<Measured> {
  return new CostMeasurement(service, bench).measure(files);
}

class CostMeasurement {
  readonly #service: Service;
  readonly #bench: Bench;
  /** The most connections of a converter so far. */
  #connections = 0;

  constructor(service: Service, bench: Bench) {
    this.#service = service;
    this.#bench = bench;
  }

  async measure(files: NormalFiles): Promise<Measured> {
    const { say } = this.#bench;
    await installStatistics(this.#service.adminUrl);
    const images = [...files.photos, ...files.scans];
    const first = [...files.scans, ...files.pdfs.slice(0, 10)];
    say('an API alone');
    const base = perSecond(await this.#idle(BASE_S));
    say('uploads that are only accepted');
    const accepted = await costOf(this.#service, () => this.#send(first));
    const accepting = scaleCost(subtractCosts(accepted.cost, scaleCost(base, accepted.seconds)), 1 / first.length);
    say('one converter, to warm up');
    await this.#service.restartConverter();
    await this.#drained();
    say('images');
    const ofImages = await this.#convert(images, base, accepting);
    say('PDFs');
    const ofPdfs = await this.#convert(files.pdfs, base, accepting);
    const { idleSecond, wake } = await this.#measureIdle(base);
    const perJob = ({ cost, seconds, jobs, pages }: Converted) => ({
      cost: scaleCost(subtractCosts(cost, scaleCost(idleSecond, seconds)), 1 / jobs),
      pages: pages / jobs,
    });
    const uploads = ofImages.uploads + ofPdfs.uploads;
    return {
      costs: { accepting, idleSecond, wake },
      jobs: { 'an image': perJob(ofImages), 'a PDF': perJob(ofPdfs) },
      uploads,
      jobsEach: (ofImages.jobs + ofPdfs.jobs) / uploads,
      pagesEach: (ofImages.pages + ofPdfs.pages) / uploads,
      cpuSecondsEach: (ofImages.cpuSeconds + ofPdfs.cpuSeconds) / uploads,
      connections: this.#connections,
    };
  }

  async #convert(files: string[], base: Cost, accepting: Cost): Promise<Converted> {
    const { pool, converterPid } = this.#service;
    const before = cpuOfTree(converterPid());
    const since = new Date();
    const { cost, seconds } = await costOf(this.#service, async () => {
      await this.#send(files);
      await this.#drained();
    });
    const cpuSeconds = cpuOfTree(converterPid()) - before;
    const own = subtractCosts(cost, scaleCost(base, seconds), scaleCost(accepting, files.length));
    return { cost: own, seconds, cpuSeconds, ...(await countConverted(pool, since)) };
  }

  /** Compares jobs that wake one converter with jobs that others also receive, and measures the others while they idle. */
  async #measureIdle(base: Cost): Promise<{ idleSecond: Cost; wake: Cost }> {
    const { say, signal } = this.#bench;
    const service = this.#service;
    const wakeForJobs = () =>
      costOf(service, () => runEach(Array(WOKEN_JOBS).fill(0), 1, () => submitAndWait(service, signal)));
    say('jobs with one converter');
    await wakeForJobs();
    const alone = await wakeForJobs();
    say(`jobs with ${IDLE - 1} other converters`);
    const others = [];
    while (others.length < IDLE - 1) others.push(await service.startOtherConverter());
    await delay(SETTLE_MS, undefined, { signal });
    await wakeForJobs();
    const together = await wakeForJobs();
    say(`${IDLE} idle converters`);
    const idleSecond = scaleCost(subtractCosts(perSecond(await this.#idle(MINUTE_S)), base), 1 / IDLE);
    await Promise.all(others.map(({ stop }) => stop()));
    const difference = subtractCosts(
      together.cost,
      alone.cost,
      scaleCost(base, together.seconds - alone.seconds),
      scaleCost(idleSecond, IDLE * together.seconds - alone.seconds),
    );
    // A converter that only receives a wake-up writes nothing.
    return { idleSecond, wake: { ...scaleCost(difference, 1 / (WOKEN_JOBS * (IDLE - 1))), commits: 0 } };
  }

  #idle(seconds: number): Promise<{ cost: Cost; seconds: number }> {
    return costOf(this.#service, () => delay(seconds * 1000, undefined, { signal: this.#bench.signal }));
  }

  #send(files: string[]): Promise<void> {
    return runEach(files, IN_FLIGHT, async (file) => {
      const form = new FormData();
      form.append('file', await openAsBlob(file), path.basename(file));
      await post(`${this.#service.url}/uploads`, form, this.#bench.signal);
    });
  }

  /** Waits until no job is left. */
  async #drained(): Promise<void> {
    for (;;) {
      const { rows } = await this.#service.pool.query(
        `select /* bench */ (select count(*)::int from jobs where finished_at is null) as left,
           (select count(*)::int from pg_stat_activity where application_name = 'sheetmill-converter') as connections`,
      );
      this.#connections = Math.max(this.#connections, rows[0].connections);
      if (rows[0].left === 0) return;
      await delay(POLL_MS, undefined, { signal: this.#bench.signal });
    }
  }
}

/** Commits in a second with and without a notification, many transactions at a time. */
export async function measureCommits(url: string): Promise<{ notifying: number; silent: number }> {
  const pool = new pg.Pool({ connectionString: url, max: COMMITTERS });
  try {
    await pool.query('create table committed (n int)');
    const rateOf = async (statement: string) => {
      const until = performance.now() + COMMITTING_MS;
      let commits = 0;
      await runEach(Array(COMMITTERS).fill(0), COMMITTERS, async () => {
        for (; performance.now() < until; commits++) await pool.query(statement);
      });
      return commits / (COMMITTING_MS / 1000);
    };
    const silent = await rateOf('insert into committed values (1)');
    const notifying = await rateOf(
      `with notified as (select pg_notify('bench', '')) insert into committed select 1 from notified`,
    );
    return { notifying, silent };
  } finally {
    await pool.end();
  }
}

/** The cost of `work` for Postgres, without the statements of the bench. */
async function costOf({ pool }: Service, work: () => Promise<unknown>): Promise<{ cost: Cost; seconds: number }> {
  const read = async () => {
    const { rows } = await pool.query(
      `select /* bench */ pg_snapshot_xmax(pg_current_snapshot())::text::float as commits, pg_backend_pid() as pid,
         (select sum(calls)::float from pg_stat_statements where query not like '%/* bench */%') as statements`,
    );
    const { commits, pid, statements } = rows[0];
    return { at: performance.now(), cost: { commits, statements, seconds: cpuOfTree(parentOf(pid)) } };
  };
  const before = await read();
  await work();
  const after = await read();
  return { cost: subtractCosts(after.cost, before.cost), seconds: (after.at - before.at) / 1000 };
}

/** The uploads since a time, with their jobs and pages. */
async function countConverted(pool: pg.Pool, since: Date): Promise<{ uploads: number; jobs: number; pages: number }> {
  const { rows } = await pool.query(
    `select /* bench */ count(*)::int as uploads, sum(pages_done)::int as pages,
       sum((select count(*) from jobs where upload_id = uploads.id))::int as jobs
     from uploads where created_at >= $1`,
    [since],
  );
  return rows[0];
}

async function submitAndWait({ url }: Service, signal: AbortSignal): Promise<void> {
  const { job_id } = await post(`${url}/jobs`, JSON.stringify({ type: 'noop' }), signal);
  const response = await fetch(`${url}/jobs/${job_id}`, { headers: { Prefer: 'wait=60' }, signal });
  const { status } = (await response.json()) as { status: string };
  if (status !== 'completed') throw new Error(`${job_id} is ${status}`);
}

async function post(url: string, body: FormData | string, signal: AbortSignal): Promise<{ job_id?: string }> {
  const headers: Record<string, string> = typeof body === 'string' ? { 'Content-Type': 'application/json' } : {};
  const response = await fetch(url, { method: 'POST', headers, body, signal });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return (await response.json()) as { job_id?: string };
}

/** Works on all items, `atOnce` at a time. */
async function runEach<T>(list: T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
  const left = list.values();
  const runner = async () => {
    for (const item of left) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, runner));
}

function perSecond({ cost, seconds }: { cost: Cost; seconds: number }): Cost {
  return scaleCost(cost, 1 / seconds);
}

function cpuOfTree(pid: number | undefined): number {
  if (pid === undefined) throw new Error('the converter has ended');
  return cpuSecondsOf(treesOf([pid]).get(pid) ?? []);
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}
