import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TaskEvent, TaskRequest } from '../../../converter/run-task.ts';
import { createSandboxPool, type SandboxPool } from '../../../converter/sandbox/pool.ts';
import { createLogger } from '../../../log.ts';
import { childrenOf, commandOf, isAlive } from '../../scenarios/processes.ts';
import { pdfThatNeverEnds } from '../../scenarios/slow-files.ts';
import { makeImage } from '../../support/files.ts';
import { until } from '../../support/service.ts';

let folder: string;
let pool: SandboxPool;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-pool-'));
  await writeFile(path.join(folder, 'a.png'), await makeImage());
  await writeFile(path.join(folder, 'slow.pdf'), pdfThatNeverEnds());
  pool = createSandboxPool({
    keep: 1,
    roomMb: () => 1024,
    cacheFolder: process.env.NODE_COMPILE_CACHE ?? path.join(folder, 'cache'),
    tasksModule: undefined,
    log: createLogger('silent', {}),
  });
});
afterEach(async () => {
  await pool.close();
  await rm(folder, { recursive: true });
  expect(sandboxes()).toEqual([]);
});

/** Our sandboxes among the children of this process, which may have others. */
function sandboxes(): number[] {
  return childrenOf(process.pid).filter((pid) => isAlive(pid) && commandOf(pid).includes('sandbox/child.ts'));
}

function requestOf(input: string, type = 'convert'): TaskRequest {
  const media_type = input.endsWith('.pdf') ? 'application/pdf' : 'image/png';
  return {
    type,
    payload: { upload_id: 'u', original: 1, path: input, media_type, dpi: 72, page_selection: null },
    attempt: 1,
    files: { originals: [], pages: [] },
    input: path.join(folder, input),
    password: null,
    dependencies: [],
    settledPages: [],
    avoid: [],
    reservation: { cpuUnits: 1, memoryMb: 256 },
    limits: { maxPages: 10, maxPixels: 1e8, stepSeconds: 30, firstEngine: 'pdfium' },
    outputRoot: folder,
  };
}

async function run(request: TaskRequest, { deadlineMs = 30_000, signal = new AbortController().signal } = {}) {
  const events: TaskEvent[] = [];
  const lease = pool.lease(request.reservation.memoryMb);
  try {
    const ended = await lease.run(request, { deadlineMs, signal, onEvent: (event) => events.push(event) });
    return { ...ended, events };
  } finally {
    lease.release();
  }
}

test('a task tells what it found and made, before its end', async () => {
  const { outcome, events, peakMemoryMb } = await run(requestOf('a.png'));
  expect(outcome).toEqual({ kind: 'completed', result: { pages: 1 } });
  expect(events).toMatchObject([
    { kind: 'inspected', found: { pageCount: 1, selected: [[1, 1]] } },
    { kind: 'page', outcome: { page: 1, status: 'completed', path: 'uploads/u/pages/1-0001.1.png' } },
  ]);
  expect(await readdir(path.join(folder, 'uploads/u/pages'))).toEqual(['1-0001.1.png']);
  expect(peakMemoryMb).toBeGreaterThan(50);
});

test('one sandbox serves one task after another', async () => {
  await run(requestOf('a.png'));
  const first = sandboxes();
  await run(requestOf('a.png'));
  expect([first.length, sandboxes()]).toEqual([1, first]);
});

test('while one is out none is started in its place; it is kept when it comes back', async () => {
  await run(requestOf('a.png'));
  const first = sandboxes();
  const lease = pool.lease(256);
  pool.refill();
  expect(sandboxes()).toEqual(first);
  lease.release();
  pool.refill();
  expect(sandboxes()).toEqual(first);
  expect(first).toHaveLength(1);
});

test('tasks at the same time have a sandbox each, and only the warm one stays', async () => {
  const ended = await Promise.all([1, 2, 3].map(() => run(requestOf('a.png'))));
  expect(ended.map(({ outcome }) => outcome.kind)).toEqual(['completed', 'completed', 'completed']);
  await until(async () => sandboxes().length === 1);
});

test('a task that throws leaves its sandbox healthy', async () => {
  const before = sandboxes();
  const { outcome } = await run(requestOf('a.png', 'no such type'));
  expect(outcome).toMatchObject({ kind: 'failed', error: { code: 'task_failed' } });
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
  expect(sandboxes()).toEqual(before);
});

test('a task past its deadline fails with timeout, and its sandbox is gone', async () => {
  await run(requestOf('a.png'));
  const [busy] = sandboxes();
  const { outcome } = await run(requestOf('slow.pdf'), { deadlineMs: 50 });
  expect(outcome).toMatchObject({ kind: 'failed', retryable: true, error: { code: 'timeout' } });
  expect(isAlive(busy as number)).toBe(false);
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

test('a task whose sandbox is killed fails alone, and may be tried again', async () => {
  await run(requestOf('a.png'));
  const [busy] = sandboxes();
  const ending = run(requestOf('slow.pdf'));
  process.kill(busy as number, 'SIGKILL');
  const other = run(requestOf('a.png'));
  expect((await ending).outcome).toMatchObject({ kind: 'died', how: 'killed', error: { code: 'out_of_memory' } });
  expect((await other).outcome.kind).toBe('completed');
});

test('a sandbox that was killed while it had nothing to do costs nobody a task', async () => {
  await run(requestOf('a.png'));
  const [idle] = sandboxes();
  process.kill(idle as number, 'SIGKILL');
  await until(async () => !existsSync(`/proc/${idle}`));
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

test('an abort kills the sandbox, at work and before it began', async () => {
  const abort = new AbortController();
  const ending = run(requestOf('slow.pdf'), { signal: abort.signal });
  abort.abort();
  expect((await ending).outcome).toEqual({ kind: 'aborted' });
  expect((await run(requestOf('a.png'), { signal: abort.signal })).outcome).toEqual({ kind: 'aborted' });
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

test('a sandbox knows nothing of the environment, and dies first when memory runs out', async () => {
  await run(requestOf('a.png'));
  const [sandbox] = sandboxes();
  const environment = await readFile(`/proc/${sandbox}/environ`, 'utf8');
  expect(environment.split('\0').map((entry) => entry.split('=')[0])).not.toContain('TEST_POSTGRES_URL');
  expect(environment).not.toContain('postgres://');
  expect(await readFile(`/proc/${sandbox}/oom_score_adj`, 'utf8')).toBe('1000\n');
});

test('the signals of a terminal do not end a sandbox: its converter does', async () => {
  await run(requestOf('a.png'));
  const [sandbox] = sandboxes();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.kill(sandbox as number, signal);
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
  expect(sandboxes()).toEqual([sandbox]);
});
