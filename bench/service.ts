import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { openAsBlob, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { migrateDatabase } from '../db/migrate.ts';
import { startWithAdmin } from './superuser.ts';

const ROOT = path.resolve(import.meta.dirname, '..');
/** Polling only detects the end; the duration is read from the upload, so rare polling is enough. */
const POLL_MS = 200;

export type Service = Awaited<ReturnType<typeof startService>>;

interface Conversion {
  seconds: number;
  pages: number;
  /** The peak of the largest sandbox. */
  peakMb: number;
}

/**
 * Starts a complete service in `folder`: embedded Postgres, an API, and a converter on request. `stop` ends all of them;
 * an abort of `signal` only makes running calls throw.
 */
export async function startService(
  folder: string,
  cores: number,
  signal: AbortSignal,
  extra: Record<string, string> = {},
  settings: string[] = [],
) {
  const postgres = await startWithAdmin(path.join(folder, 'postgres'), settings);
  const env = {
    ...process.env,
    DATABASE_URL: postgres.url,
    DATA_DIR: folder,
    PORT: '0',
    CAPACITY_CPU: String(cores),
    LOG_LEVEL: 'warn',
    SHUTDOWN_GRACE_SECONDS: '1',
    NODE_COMPILE_CACHE: path.join(ROOT, 'node_modules/.cache/sheetmill'),
    ...extra,
  };
  const parts = new Set<ChildProcess>();
  const pool = new pg.Pool({ connectionString: postgres.url, max: 1 });
  // An idle client may lose its connection when Postgres stops.
  pool.on('error', () => undefined);
  let converter: ChildProcess | undefined;

  async function start(
    part: 'api' | 'converter',
    more: Record<string, string> = {},
  ): Promise<{ child: ChildProcess; url: string }> {
    // The options of package.json. In a separate process group, so that only the bench receives Ctrl-C and ends all in order.
    const execArgv = ['--max-semi-space-size=2'];
    const child = fork(path.join(ROOT, part, 'main.ts'), { env: { ...env, ...more }, execArgv, detached: true });
    parts.add(child);
    const ended = new AbortController();
    child.once('exit', () => {
      parts.delete(child);
      ended.abort(new Error(`the ${part} ended before it was ready`));
    });
    const [ready] = await once(child, 'message', { signal: AbortSignal.any([ended.signal, signal]) });
    return { child, url: ready.url ?? '' };
  }

  async function end(child: ChildProcess): Promise<void> {
    if (!parts.has(child)) return;
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
  }

  async function stop(): Promise<void> {
    await Promise.all([...parts].map(end));
    await pool.end();
    await postgres.stop();
  }

  /** Sends an upload and waits for its end. `finished` is a time of Date.now(). */
  async function upload(url: string, file: string): Promise<{ id: string; pages: number; finished: number }> {
    const form = new FormData();
    form.append('file', await openAsBlob(file), path.basename(file));
    const { id } = await answer(fetch(`${url}/uploads`, { method: 'POST', body: form, signal }));
    for (;;) {
      await delay(POLL_MS, undefined, { signal });
      if (!(await answer(fetch(`${url}/uploads/${id}/status`, { signal }))).done) continue;
      const { status, progress, finished_at, error } = await answer(fetch(`${url}/uploads/${id}`, { signal }));
      if (status !== 'completed') throw new Error(`${path.basename(file)}: ${JSON.stringify(error)}`);
      return { id, pages: progress.pages_total, finished: Date.parse(finished_at) };
    }
  }

  async function peakOf(ids: string[]): Promise<number> {
    const { rows } = await pool.query(
      'select max(peak_memory_mb) as mb from job_attempts join jobs on jobs.id = job_id where upload_id = any($1)',
      [ids],
    );
    return rows[0].mb;
  }

  try {
    await migrateDatabase(postgres.url);
    let api = await start('api');
    return {
      get url(): string {
        return api.url;
      },
      databaseUrl: postgres.url,
      adminUrl: postgres.adminUrl,
      pool,
      /** Undefined while no converter runs. */
      converterPid: () => (converter && parts.has(converter) ? converter.pid : undefined),
      /** Resident memory of the processes, in MB. */
      residentMb: () => ({ api: residentMb(api.child), converter: residentMb(converter) }),
      /** Replaces the API by a new process, at another URL and with more variables. */
      async restartApi(more: Record<string, string> = {}): Promise<void> {
        await end(api.child);
        api = await start('api', more);
      },
      /** Starts one more converter. */
      async startOtherConverter(): Promise<{ pid: number; stop: () => Promise<void> }> {
        const { child } = await start('converter');
        return { pid: child.pid as number, stop: () => end(child) };
      },
      async stopConverter(): Promise<void> {
        if (converter) await end(converter);
      },
      /** Replaces the converter by a new one; resolves when that is ready. */
      async restartConverter(): Promise<void> {
        if (converter) await end(converter);
        converter = (await start('converter')).child;
      },
      /** Converts a file `count` times at once, then deletes the uploads. */
      async convert(file: string, count = 1): Promise<Conversion> {
        const began = Date.now();
        const done = await Promise.all(Array.from({ length: count }, () => upload(api.url, file)));
        const seconds = (Math.max(...done.map(({ finished }) => finished)) - began) / 1000;
        const peakMb = await peakOf(done.map(({ id }) => id));
        for (const { id } of done) await fetch(`${api.url}/uploads/${id}`, { method: 'DELETE', signal });
        return { seconds, pages: done.reduce((sum, { pages }) => sum + pages, 0), peakMb };
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function residentMb(child: ChildProcess | undefined): number {
  if (child === undefined || child.exitCode !== null) return 0;
  return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024);
}

// biome-ignore lint/suspicious/noExplicitAny: a client reads responses without our types.
async function answer(request: Promise<Response>): Promise<any> {
  const response = await request;
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
  return response.json();
}
