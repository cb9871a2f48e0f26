import { openAsBlob, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { MIN_DIRECTED } from '../../jobs/wake.ts';
import { installStatistics } from '../../test/support/admin.ts';
import type { Innocents } from '../incident/normal-files.ts';
import { cpuSecondsOf, treesOf } from '../processes.ts';
import type { Service } from '../service.ts';
import { add, type Cost, type Costs, times, type Work, workSeconds } from './simulate.ts';

export interface Measured {
  costs: Costs;
  /** By kind of upload: what one of its jobs takes, with as many pages as it has on average. */
  jobs: Record<'an image' | 'a PDF', { cost: Cost; pages: number }>;
  works: Work[];
  /** Of a converter, while it converts. */
  connections: number;
}

/** Seldom, since Postgres's own CPU is measured. */
const POLL_MS = 1_000;
const IN_FLIGHT = 4;
/** Whatever comes once a minute comes once in it. */
const MINUTE_S = 60;
const BASE_S = 20;
const SETTLE_MS = 5_000;
/** Converters that idle, enough to be woken in turn, and the jobs of which they hear. */
const IDLE = 2 * MIN_DIRECTED;
const TOLD = 50;
const COMMITTERS = 16;
const COMMITTING_MS = 3_000;

/** What uploads, jobs, pages and idle converters take, each kind by itself, on a service that does nothing else. */
export async function measure(
  service: Service,
  files: Innocents,
  { signal, say }: { signal: AbortSignal; say: (line: string) => void },
): Promise<Measured> {
  await installStatistics(service.adminUrl);
  const images = [...files.photos, ...files.scans];
  const first = [...files.scans, ...files.pdfs.slice(0, 10)];
  let connections = 0;

  const during = (work: () => Promise<unknown>) => costOf(service, work);
  const idleFor = (seconds: number) => during(() => delay(seconds * 1000, undefined, { signal }));
  const drained = async () => {
    for (;;) {
      const { rows } = await service.pool.query(
        `select /* bench */ (select count(*)::int from jobs where finished_at is null) as left,
           (select count(*)::int from pg_stat_activity where application_name = 'sheetmill-converter') as connections`,
      );
      connections = Math.max(connections, rows[0].connections);
      if (rows[0].left === 0) return;
      await delay(POLL_MS, undefined, { signal });
    }
  };
  const send = (sent: string[]) =>
    inTurns(sent, IN_FLIGHT, async (file) => {
      const form = new FormData();
      form.append('file', await openAsBlob(file), path.basename(file));
      await post(`${service.url}/uploads`, form, signal);
    });

  say('an API alone');
  const base = perSecond(await idleFor(BASE_S));
  say('uploads that are only accepted');
  const accepted = await during(() => send(first));
  const accepting = times(less(accepted.cost, times(base, accepted.seconds)), 1 / first.length);
  say('one converter, to warm up');
  await service.restartConverter();
  await drained();

  const converting = async (sent: string[]) => {
    const before = cpuOfTree(service.converterPid());
    const since = new Date();
    const { cost, seconds } = await during(async () => {
      await send(sent);
      await drained();
    });
    const cpu = cpuOfTree(service.converterPid()) - before;
    const works = scale(await readWorks(service.pool, since), cpu);
    return { cost: less(cost, times(base, seconds), times(accepting, sent.length)), seconds, works };
  };
  say('images');
  const ofImages = await converting(images);
  say('PDFs');
  const ofPdfs = await converting(files.pdfs);

  say('jobs, of which nobody else hears');
  const tell = () => during(() => inTurns(Array(TOLD).fill(0), 1, () => submitAndWait(service, signal)));
  await tell();
  const alone = await tell();
  say(`jobs, of which ${IDLE - 1} others hear`);
  const others = [];
  while (others.length < IDLE - 1) others.push(await service.startOtherConverter());
  await delay(SETTLE_MS, undefined, { signal });
  await tell();
  const heard = await tell();
  say(`${IDLE} idle converters`);
  const idle = await idleFor(MINUTE_S);
  const idleSecond = times(less(perSecond(idle), base), 1 / IDLE);
  await Promise.all(others.map(({ stop }) => stop()));

  const idling = (seconds: number) => times(idleSecond, seconds);
  const busy = ({ cost, seconds, works }: typeof ofPdfs) => ({ cost: less(cost, idling(seconds)), works });
  const [convertedImages, convertedPdfs] = [busy(ofImages), busy(ofPdfs)];
  const works = [...ofImages.works, ...ofPdfs.works];
  const longer = heard.seconds - alone.seconds;
  const told = less(heard.cost, alone.cost, times(base, longer), idling(IDLE * heard.seconds - alone.seconds));
  return {
    costs: {
      accepting,
      converting: times(add(convertedImages.cost, convertedPdfs.cost), 1 / works.length),
      idleSecond,
      // One that only hears writes nothing.
      wake: { ...times(told, 1 / (TOLD * (IDLE - 1))), commits: 0 },
    },
    jobs: { 'an image': perJob(convertedImages), 'a PDF': perJob(convertedPdfs) },
    works,
    connections,
  };
}

/** Transactions that end in a second, many at a time: those that notify, and others. */
export async function measureCommits(url: string): Promise<{ notifying: number; silent: number }> {
  const pool = new pg.Pool({ connectionString: url, max: COMMITTERS });
  try {
    await pool.query('create table committed (n int)');
    const rateOf = async (statement: string) => {
      const until = performance.now() + COMMITTING_MS;
      let commits = 0;
      await inTurns(Array(COMMITTERS).fill(0), COMMITTERS, async () => {
        for (; performance.now() < until; commits++) await pool.query(statement);
      });
      return commits / (COMMITTING_MS / 1000);
    };
    const silent = await rateOf('insert into committed values (1)');
    const notifying = await rateOf(
      `with told as (select pg_notify('bench', '')) insert into committed select 1 from told`,
    );
    return { notifying, silent };
  } finally {
    await pool.end();
  }
}

/** What Postgres was asked while `work` went on, but for what the bench itself asks. */
async function costOf({ pool }: Service, work: () => Promise<unknown>): Promise<{ cost: Cost; seconds: number }> {
  const look = async () => {
    const { rows } = await pool.query(
      `select /* bench */ pg_snapshot_xmax(pg_current_snapshot())::text::float as commits, pg_backend_pid() as pid,
         (select sum(calls)::float from pg_stat_statements where query not like '%/* bench */%') as statements`,
    );
    const { commits, pid, statements } = rows[0];
    return { at: performance.now(), cost: { commits, statements, seconds: cpuOfTree(parentOf(pid)) } };
  };
  const before = await look();
  await work();
  const after = await look();
  return { cost: less(after.cost, before.cost), seconds: (after.at - before.at) / 1000 };
}

/** Uploads that came since, each with how long its jobs ran. */
async function readWorks(pool: pg.Pool, since: Date): Promise<Work[]> {
  const { rows } = await pool.query(
    `select /* bench */ uploads.pages_done as pages,
       array_agg(extract(epoch from job_attempts.finished_at - job_attempts.started_at)::float order by parent_id nulls first) as seconds
     from uploads join jobs on upload_id = uploads.id join job_attempts on job_id = jobs.id
     where uploads.created_at >= $1 group by uploads.id order by uploads.created_at`,
    [since],
  );
  return rows.map(({ pages, seconds: [firstSeconds, ...partSeconds] }) => ({ pages, firstSeconds, partSeconds }));
}

/** The same shares, of the CPU that all of them took, the converter's own included: how long they ran depends on who else did. */
function scale(works: Work[], cpuSeconds: number): Work[] {
  const factor = cpuSeconds / works.reduce((sum, work) => sum + workSeconds(work), 0);
  return works.map(({ pages, firstSeconds, partSeconds }) => ({
    pages,
    firstSeconds: firstSeconds * factor,
    partSeconds: partSeconds.map((seconds) => seconds * factor),
  }));
}

function perJob({ cost, works }: { cost: Cost; works: Work[] }): { cost: Cost; pages: number } {
  const jobs = works.reduce((sum, { partSeconds }) => sum + 1 + partSeconds.length, 0);
  const pages = works.reduce((sum, work) => sum + work.pages, 0);
  return { cost: times(cost, 1 / jobs), pages: pages / jobs };
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

/** One after the other, so many at a time. */
async function inTurns<T>(list: T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
  const left = list.values();
  const turn = async () => {
    for (const item of left) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, turn));
}

function less(from: Cost, ...costs: Cost[]): Cost {
  return add(from, times(add(...costs), -1));
}

function perSecond({ cost, seconds }: { cost: Cost; seconds: number }): Cost {
  return times(cost, 1 / seconds);
}

function cpuOfTree(pid: number | undefined): number {
  if (pid === undefined) throw new Error('the converter died');
  return cpuSecondsOf(treesOf([pid]).get(pid) ?? []);
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}
