import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { auditAll } from '../../conversion/audit.ts';
import * as schema from '../../db/schema.ts';
import { cloneDatabase } from './database.ts';
import { QUICK_IMPORTS } from './programs.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

/** An idle connection may be closed by the API just when a late client sends on it. */
export const ONE_REQUEST = { Connection: 'close' };

export type Service = Awaited<ReturnType<typeof startService>>;

/**
 * Starts a separate service: database, data folder, API process and converter processes, as `npm run api` and
 * `npm run converter` start them. `stop` ends and removes all of it. With `keepLog`, `log()` returns their output.
 * `databaseUrl` names a database that the caller owns; `enter` is a prefix of the API's command, to start it elsewhere.
 */
export async function startService({
  converters = 1,
  env = {},
  keepLog = false,
  databaseUrl,
  enter = [],
}: {
  converters?: number;
  env?: Record<string, string>;
  keepLog?: boolean;
  databaseUrl?: string;
  enter?: string[];
} = {}) {
  const database =
    databaseUrl === undefined ? await cloneDatabase() : { url: databaseUrl, drop: async () => undefined };
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-service-'));
  const environment = {
    DATABASE_URL: database.url,
    DATA_DIR: folder,
    PORT: '0',
    LOG_LEVEL: 'error',
    MIN_FREE_MB: '0',
    // Each unit keeps a sandbox, whose start takes as much CPU time as that of the converter.
    CAPACITY_CPU: '1',
    ...env,
  };
  const pool = new pg.Pool({ connectionString: database.url, max: 4 });
  // A client that has ended for the pool may still be cut off when the database is dropped, or Postgres killed.
  pool.on('connect', (client) => client.on('error', () => undefined));
  pool.on('error', () => undefined);
  const processes = new Set<ChildProcess>();
  let log = '';

  function launch(part: 'api' | 'converter', extra: Record<string, string> = {}, enter: string[] = []): ChildProcess {
    const [program = '', ...before] = [...enter, process.execPath];
    const child = fork(path.join(ROOT, part, 'main.ts'), {
      cwd: ROOT,
      env: { ...process.env, ...environment, ...extra, NODE_OPTIONS: '' },
      execPath: program,
      // As `npm run api` and `npm run converter` do.
      execArgv: [...before, '--max-semi-space-size=2', '--import', QUICK_IMPORTS],
      stdio: ['ignore', 'inherit', keepLog ? 'pipe' : 'inherit', 'ipc'],
    });
    // By lines, so that those of one process do not tear those of another.
    if (child.stderr)
      createInterface({ input: child.stderr }).on('line', (line) => {
        log += `${line}\n`;
      });
    processes.add(child);
    child.once('exit', () => processes.delete(child));
    return child;
  }

  async function start(...given: Parameters<typeof launch>) {
    const child = launch(...given);
    const [ready] = await Promise.race([
      once(child, 'message'),
      once(child, 'exit').then(([code]) => {
        throw new Error(`the ${given[0]} ended with ${code} before it was ready`);
      }),
    ]);
    const { url = '', metricsPort } = ready as { url?: string; metricsPort?: number };
    return { child, url, metricsPort };
  }

  async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (!processes.has(child)) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  let api = await start('api', {}, enter);
  const started = await Promise.all(Array.from({ length: converters }, () => start('converter')));

  async function get(route: string): Promise<Json> {
    const response = await fetch(api.url + route, { headers: ONE_REQUEST });
    if (!response.ok) throw new Error(`GET ${route}: ${response.status} ${await response.text()}`);
    return (await response.json()) as Json;
  }

  /** The document of a route once it has ended: the API holds its answer until then. Fails after `ms`. */
  async function ended(route: string, ms: number): Promise<Json> {
    const deadline = performance.now() + ms;
    for (;;) {
      const seconds = Math.ceil(Math.max(0, deadline - performance.now()) / 1000);
      const { status, text, body } = await send('GET', route, undefined, { Prefer: `wait=${Math.min(seconds, 60)}` });
      if (status !== 200) throw new Error(`GET ${route}: ${status} ${text}`);
      if (body.done || body.finished_at) return body;
      if (performance.now() > deadline) throw new Error(`not ended within ${ms} ms: ${text}`);
    }
  }

  /** Sends a value as JSON, or a string as it is; gives the status, the headers and the answer as text and parsed. */
  async function send(method: string, route: string, body?: unknown, headers: Record<string, string> = {}) {
    const response = await fetch(api.url + route, {
      method,
      headers: { ...ONE_REQUEST, ...(body !== undefined && { 'Content-Type': 'application/json' }), ...headers },
      body: body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: (text === '' ? undefined : JSON.parse(text)) as Json,
    };
  }

  /** A job once it has this status. Fails at once when it ends otherwise, or after `ms`. */
  async function jobIn(status: string, id: string, ms?: number): Promise<Json> {
    return until(async () => {
      const job = await get(`/jobs/${id}`);
      if (job.status === status) return job;
      if (job.finished_at !== null) throw new Error(`${id} is ${job.status}: ${JSON.stringify(job.error)}`);
      return undefined;
    }, ms);
  }

  return {
    get url(): string {
      return api.url;
    },
    get api(): ChildProcess {
      return api.child;
    },
    log: () => log,
    converters: started.map(({ child }) => child),
    /** The metrics ports of the converters, with METRICS_PORT=0. */
    metricsUrls: started.map(({ metricsPort }) => `http://127.0.0.1:${metricsPort}`),
    folder,
    pool,
    get,
    send,
    post: (route: string, body?: unknown, headers?: Record<string, string>) => send('POST', route, body, headers),
    patch: (route: string) => send('PATCH', route),
    put: (route: string, body: unknown) => send('PUT', route, body),
    delete: (route: string) => send('DELETE', route),
    /** Submits one job, or an array of them as a batch; gives the document, or the documents. */
    async submit(jobs: Json): Promise<Json> {
      const { status, text, body } = await send('POST', '/jobs', jobs);
      if (status !== 201) throw new Error(`POST /jobs: ${status} ${text}`);
      return Array.isArray(jobs) ? body.items : body;
    },
    jobIn,
    /** The document of a job once it has ended. Fails after `ms`. */
    jobDone: (id: string, ms = 50_000) => ended(`/jobs/${id}`, ms),
    /** Ages the heartbeat of a killed converter, so that the others declare it lost at once. */
    async forget(converter: ChildProcess): Promise<void> {
      await pool.query(`
        insert into maintenance (last_seen_at, watched_since) values (now(), now() - interval '1 hour')
        on conflict (id) do update set last_seen_at = excluded.last_seen_at, watched_since = excluded.watched_since`);
      await pool.query(`update converters set heartbeat_at = now() - interval '1 hour' where name like '%-' || $1`, [
        String(converter.pid),
      ]);
    },
    /** Finds rows that contradict each other. */
    audit: () => auditAll(drizzle({ client: pool, schema })),
    /** Starts the API again at another URL, after the previous one has ended. */
    async startApi(): Promise<void> {
      api = await start('api');
    },
    /** One more API process beside the one at `url`. */
    startOtherApi: (extra?: Record<string, string>) => start('api', extra),
    /** Gives a converter that is not ready yet. */
    launchConverter: () => launch('converter'),
    startConverter: async (extra?: Record<string, string>, enter?: string[]) =>
      (await start('converter', extra, enter)).child,
    end,
    /** Uploads files given as [filename, bytes] with text fields; gives the status and the parsed answer. */
    async upload(
      files: [string, Uint8Array][],
      fields: Record<string, string> = {},
      headers: Record<string, string> = {},
    ) {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) form.append(name, value);
      for (const [name, bytes] of files) form.append('file', new Blob([bytes as Uint8Array<ArrayBuffer>]), name);
      const response = await fetch(`${api.url}/uploads`, {
        method: 'POST',
        headers: { ...ONE_REQUEST, ...headers },
        body: form,
      });
      return { status: response.status, headers: response.headers, body: (await response.json()) as Json };
    },
    /** The document of an upload once it is done. Fails after `ms`. */
    done: (id: string, ms = 50_000) => ended(`/uploads/${id}/status`, ms).then(() => get(`/uploads/${id}`)),
    async bytes(route: string): Promise<Buffer> {
      const response = await fetch(api.url + route, { headers: ONE_REQUEST });
      if (!response.ok) throw new Error(`GET ${route}: ${response.status}`);
      return Buffer.from(await response.arrayBuffer());
    },
    /** Every file in the store, as paths relative to its root. */
    async storedFiles(): Promise<string[]> {
      const entries = await readdir(path.join(folder, 'store'), { recursive: true, withFileTypes: true }).catch(
        (error) => {
          if (error.code !== 'ENOENT') throw error;
        },
      );
      // A folder went while it was read.
      if (entries === undefined) return this.storedFiles();
      return entries
        .filter((entry) => entry.isFile())
        .map((entry) => path.relative(path.join(folder, 'store'), path.join(entry.parentPath, entry.name)))
        .sort();
    },
    /** Counts of what no finished upload or job accounts for: zero once all of them have ended. */
    async leftovers(): Promise<Json> {
      const { rows } = await pool.query(`select
        (select count(*)::int from jobs where status not in ('completed', 'failed', 'cancelled')) as jobs,
        (select count(*)::int from job_attempts where status = 'running') as attempts,
        (select count(*)::int from pgboss.job where name <> 'webhooks' and (name like 'jobs.%' or state < 'completed')) as queued,
        (select count(*)::int from uploads where finished_at is null) as uploads`);
      const { rows: paths } = await pool.query(
        `select path from originals union all select path from pages where path is not null
         union all select result->>'path' from jobs where type = 'archive' and status = 'completed'`,
      );
      const listed = paths.map(({ path }) => path);
      const stored = await this.storedFiles();
      return {
        ...rows[0],
        filesNotListed: stored.filter((file) => !listed.includes(file)),
        filesMissing: listed.filter((file) => !stored.includes(file)),
      };
    },
    async stop(): Promise<void> {
      await Promise.all([...processes].map((child) => end(child)));
      await pool.end();
      await database.drop();
      await rm(folder, { recursive: true });
    },
  };
}

/** The result of `leftovers` when nothing is left. */
export const NOTHING_LEFT = { jobs: 0, attempts: 0, queued: 0, uploads: 0, filesNotListed: [], filesMissing: [] };

/** Once all has ended: nothing is at work, on disk without being listed, or broken in the rows. */
export async function expectNothingLeft(service: Service): Promise<void> {
  await until(async () => (await service.leftovers()).jobs === 0);
  expect(await service.leftovers()).toEqual(NOTHING_LEFT);
  expect(await service.audit()).toEqual([]);
}

// biome-ignore lint/suspicious/noExplicitAny: answers are read as a client reads them, without our types.
export type Json = any;

/** Asks every 20 ms until there is an answer that is not undefined or false. Fails after `ms`. */
export async function until<T>(ask: () => Promise<T | undefined | false>, ms = 50_000): Promise<T> {
  const deadline = Date.now() + ms;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new Error(`not within ${ms} ms`);
    await delay(20);
  }
}
