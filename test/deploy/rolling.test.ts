import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { cloneDatabase } from '../support/database.ts';
import { makeImage } from '../support/files.ts';
import { ROOT } from '../support/programs.ts';
import { type Json, type Service, startService } from '../support/service.ts';

/**
 * The previous version beside this one on one database, and alone after a rollback. The previous version is the last tag,
 * or the previous commit. A migration that breaks earlier versions has a line that begins with `-- incompatible`; the test
 * is skipped until the next version then.
 */
const MIGRATIONS = path.join(ROOT, 'migrations');

function git(...args: string[]): string | undefined {
  try {
    return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return undefined;
  }
}

const base = git('describe', '--tags', '--abbrev=0', 'HEAD~1') ?? git('rev-parse', '--verify', '--quiet', 'HEAD~1');

function reasonToSkip(): string | undefined {
  if (base === undefined) return 'no git history';
  const known = new Set(git('ls-tree', '--name-only', base, 'migrations/')?.split('\n'));
  const incompatible = readdirSync(MIGRATIONS).find(
    (file) =>
      file.endsWith('.sql') &&
      !known.has(`migrations/${file}`) &&
      /^-- incompatible/m.test(readFileSync(path.join(MIGRATIONS, file), 'utf8')),
  );
  return incompatible && `${incompatible} breaks earlier versions`;
}

const reason = reasonToSkip();
const whenPossible = reason === undefined ? test : test.skip;

let folder: string;
let database: Awaited<ReturnType<typeof cloneDatabase>>;
let service: Service | undefined;
const children: ChildProcess[] = [];
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-rolling-'));
  database = await cloneDatabase('template1');
  if (reason !== undefined || base === undefined) return;
  const archive = execFileSync('git', ['archive', base], { cwd: ROOT, maxBuffer: 2 ** 30 });
  execFileSync('tar', ['-x', '-C', folder], { input: archive });
  if (!existsSync(path.join(folder, 'node_modules')))
    await symlink(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
});
afterAll(async () => {
  await Promise.all(children.map((child) => end(child, 'SIGKILL')));
  await service?.stop();
  await database.drop();
  await rm(folder, { recursive: true });
});

async function startPrevious(
  part: 'api' | 'converter',
  dataFolder: string,
): Promise<{ child: ChildProcess; url: string }> {
  const child = fork(path.join(folder, part, 'main.ts'), {
    cwd: folder,
    env: {
      ...process.env,
      ...{ NODE_OPTIONS: '', DATABASE_URL: database.url, DATA_DIR: dataFolder, PORT: '0' },
      ...{ LOG_LEVEL: 'error', MIN_FREE_MB: '0', CAPACITY_CPU: '2' },
    },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  children.push(child);
  const [ready] = await Promise.race([once(child, 'message'), once(child, 'exit').then(([code]) => [{ code }])]);
  expect(ready).toMatchObject({ kind: 'ready' });
  return { child, url: (ready as { url?: string }).url ?? '' };
}

async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}

whenPossible(
  `the previous version works beside this one and after a rollback${reason === undefined ? '' : ` (skipped: ${reason})`}`,
  async () => {
    service = await startService({
      databaseUrl: database.url,
      env: { TASKS: './test/scenarios/crashing-tasks.ts', CAPACITY_CPU: '2' },
    });
    const previous = await startPrevious('converter', service.folder);
    const image = await makeImage();
    const uploads: { body: Json }[] = [];
    for (let count = 0; count < 6; count++) uploads.push(await service.upload([[`${count}.png`, image]]));
    // The previous version does not know this type and must not claim it.
    const jobs: Json[] = await service.submit(Array(20).fill({ type: 'noop', retry_config: { max_attempts: 1 } }));
    for (const { body } of uploads) expect((await service.done(body.id)).status).toBe('completed');
    for (const { job_id } of jobs) expect((await service.jobDone(job_id, 60_000)).status).toBe('completed');
    expect(await service.audit()).toEqual([]);

    await Promise.all([end(previous.child), end(service.api), ...service.converters.map((child) => end(child))]);
    const [api] = await Promise.all([startPrevious('api', service.folder), startPrevious('converter', service.folder)]);
    const form = new FormData();
    form.append('file', new Blob([image as Uint8Array<ArrayBuffer>]), 'a.png');
    const { id }: Json = await (await fetch(`${api.url}/uploads`, { method: 'POST', body: form })).json();
    const waiting = await fetch(`${api.url}/uploads/${id}/status`, { headers: { Prefer: 'wait=30' } });
    expect(await waiting.json()).toMatchObject({ done: true, status: 'completed' });
  },
  180_000,
);
