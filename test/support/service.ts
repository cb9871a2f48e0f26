import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { cloneDatabase } from './database.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

export type Service = Awaited<ReturnType<typeof startService>>;

/**
 * A whole service of its own: database, data folder, API process and converter processes, as `npm run api` and
 * `npm run converter` start them. `stop` ends and removes all of it.
 */
export async function startService({
  converters = 1,
  env = {},
}: {
  converters?: number;
  env?: Record<string, string>;
} = {}) {
  const database = await cloneDatabase();
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-service-'));
  const environment = { DATABASE_URL: database.url, DATA_DIR: folder, PORT: '0', LOG_LEVEL: 'error', ...env };
  const pool = new pg.Pool({ connectionString: database.url, max: 2 });
  const processes = new Set<ChildProcess>();

  async function start(part: 'api' | 'converter', extra: Record<string, string> = {}) {
    const child = fork(path.join(ROOT, part, 'main.ts'), {
      cwd: ROOT,
      env: { ...process.env, ...environment, ...extra, NODE_OPTIONS: '' },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    processes.add(child);
    child.once('exit', () => processes.delete(child));
    const [ready] = await Promise.race([
      once(child, 'message'),
      once(child, 'exit').then(([code]) => {
        throw new Error(`the ${part} ended with ${code} before it was ready`);
      }),
    ]);
    return { child, url: (ready as { url?: string }).url ?? '' };
  }

  async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (!processes.has(child)) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  const api = await start('api');
  const started = await Promise.all(Array.from({ length: converters }, () => start('converter')));

  async function get(route: string): Promise<Json> {
    const response = await fetch(api.url + route);
    if (!response.ok) throw new Error(`GET ${route}: ${response.status} ${await response.text()}`);
    return (await response.json()) as Json;
  }

  return {
    url: api.url,
    api: api.child,
    converters: started.map(({ child }) => child),
    folder,
    pool,
    get,
    startConverter: async (extra?: Record<string, string>) => (await start('converter', extra)).child,
    end,
    /** Uploads files given as [filename, bytes] with text fields; gives the status and the parsed answer. */
    async upload(files: [string, Uint8Array][], fields: Record<string, string> = {}) {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) form.append(name, value);
      for (const [name, bytes] of files) form.append('file', new Blob([bytes as Uint8Array<ArrayBuffer>]), name);
      const response = await fetch(`${api.url}/uploads`, { method: 'POST', body: form });
      return { status: response.status, body: (await response.json()) as Json };
    },
    /** The document of an upload once it is done. Fails after `ms`. */
    async done(id: string, ms = 50_000): Promise<Json> {
      return until(async () => ((await get(`/uploads/${id}/status`)).done ? get(`/uploads/${id}`) : undefined), ms);
    },
    async bytes(route: string): Promise<Buffer> {
      const response = await fetch(api.url + route);
      if (!response.ok) throw new Error(`GET ${route}: ${response.status}`);
      return Buffer.from(await response.arrayBuffer());
    },
    /** Every file in the store, as paths relative to its root. */
    async storedFiles(): Promise<string[]> {
      const entries = await readdir(path.join(folder, 'store'), { recursive: true, withFileTypes: true });
      return entries
        .filter((entry) => entry.isFile())
        .map((entry) => path.relative(path.join(folder, 'store'), path.join(entry.parentPath, entry.name)))
        .sort();
    },
    async stop(): Promise<void> {
      await Promise.all([...processes].map((child) => end(child)));
      await pool.end();
      await database.drop();
      await rm(folder, { recursive: true });
    },
  };
}

// biome-ignore lint/suspicious/noExplicitAny: answers are read as a client reads them, without our types.
export type Json = any;

/** Asks every 20 ms until there is an answer that is not undefined or false. Fails after `ms`. */
export async function until<T>(ask: () => Promise<T | undefined | false>, ms = 20_000): Promise<T> {
  const deadline = Date.now() + ms;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new Error(`not within ${ms} ms`);
    await delay(20);
  }
}
