import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { PrivateFolder } from '../../../converter/files/private-folder.ts';
import type { TaskEvent, TaskRequest } from '../../../converter/run-task.ts';
import { compiledCodeFolder } from '../../../converter/sandbox/compiled-code.ts';
import { detectIsolation } from '../../../converter/sandbox/isolation/detect.ts';
import { SandboxPool } from '../../../converter/sandbox/pool.ts';
import { createLogger } from '../../../runtime/log.ts';
import { childrenOf } from '../../../runtime/process-tree.ts';
import { commandOf, isAlive } from '../../scenarios/processes.ts';
import { pdfThatNeverEnds } from '../../scenarios/slow-files.ts';
import { makeImage, makePdf } from '../../support/files.ts';
import { prepareFor, taskRequest } from '../../support/prepare.ts';
import { until } from '../../support/service.ts';

// The tasks here read and write outside the private folder.
const isolation = await detectIsolation({ from: 'memory' });

let folder: string;
let pool: SandboxPool;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-pool-'));
  await writeFile(path.join(folder, 'a.png'), await makeImage());
  await writeFile(path.join(folder, 'a.pdf'), await makePdf([{ color: [9, 9, 9], text: 'a' }]));
  await writeFile(path.join(folder, 'slow.pdf'), pdfThatNeverEnds());
  pool = startPool('owner');
});

function startPool(reuse: 'owner' | 'never'): SandboxPool {
  return new SandboxPool({
    keep: 1,
    roomMb: () => 1024,
    workFolder: folder,
    cacheFolder: compiledCodeFolder(folder),
    hidden: [],
    isolation,
    tasksModule: path.resolve(import.meta.dirname, 'raw-tasks.ts'),
    reuse,
    log: createLogger('silent', {}),
  });
}
afterEach(async () => {
  await pool.close();
  await rm(folder, { recursive: true });
  expect(sandboxes()).toEqual([]);
});

/** The sandboxes of this process, which may have other children. */
function sandboxes(): number[] {
  return childrenOf(process.pid).filter((pid) => isAlive(pid) && commandOf(pid).includes('sandbox/child.ts'));
}

function requestOf(input: string, type = 'convert') {
  const media_type = input.endsWith('.pdf') ? 'application/pdf' : 'image/png';
  const payload = { upload_id: 'u', original: 1, path: input, media_type, dpi: 72, page_selection: null };
  return taskRequest({ type, payload, input: path.join(folder, input) });
}

async function run(
  request: Omit<TaskRequest, 'outputFolder'>,
  {
    deadlineMs = 30_000,
    signal = new AbortController().signal,
    owner = null as string | null,
    onFirst = () => {},
  } = {},
) {
  const events: TaskEvent[] = [];
  const onEvent = (event: TaskEvent) => {
    if (events.push(event) === 1) onFirst();
  };
  const lease = pool.lease(request.reservation.memoryMb, owner);
  try {
    const ended = await lease.run(prepareFor(request), { deadlineMs, signal, onEvent });
    return { ...ended, events };
  } finally {
    lease.release();
  }
}

test('a task reports its inspection and its pages before its end', async () => {
  const { outcome, events, peakMemoryMb } = await run(requestOf('a.png'));
  expect(outcome).toEqual({ kind: 'completed', result: { pages: 1 } });
  expect(events).toMatchObject([
    { kind: 'inspected', found: { pageCount: 1, selected: [[1, 1]] } },
    { kind: 'page', report: { page: 1, status: 'completed' } },
  ]);
  expect(peakMemoryMb).toBeGreaterThan(50);
});

test('a sandbox runs one task after another', async () => {
  await run(requestOf('a.png'));
  const first = sandboxes();
  await run(requestOf('a.png'));
  expect([first.length, sandboxes()]).toEqual([1, first]);
});

test('a leased sandbox is not replaced, and is kept after its release', async () => {
  await run(requestOf('a.png'));
  const first = sandboxes();
  const lease = pool.lease(256, null);
  pool.refill();
  expect(sandboxes()).toEqual(first);
  lease.release();
  pool.refill();
  expect(sandboxes()).toEqual(first);
  expect(first).toHaveLength(1);
});

test('concurrent tasks have a sandbox each, and one is kept', async () => {
  const ended = await Promise.all([1, 2, 3].map(() => run(requestOf('a.png'))));
  expect(ended.map(({ outcome }) => outcome.kind)).toEqual(['completed', 'completed', 'completed']);
  await until(async () => sandboxes().length === 1);
});

test('a sandbox is reused after a task throws', async () => {
  await run(requestOf('a.png'));
  const before = sandboxes();
  const { outcome } = await run(requestOf('a.png', 'no such type'));
  expect(outcome).toMatchObject({ kind: 'failed', error: { code: 'task_failed' } });
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
  expect(sandboxes()).toEqual(before);
});

test('a task past its deadline fails with timeout, and its sandbox ends', async () => {
  await run(requestOf('a.png'));
  const [busy] = sandboxes();
  const { outcome } = await run(requestOf('slow.pdf'), { deadlineMs: 50 });
  expect(outcome).toMatchObject({ kind: 'failed', retryable: true, error: { code: 'timeout' } });
  expect(isAlive(busy as number)).toBe(false);
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

test('a killed sandbox fails only its task, which may be retried', async () => {
  await run(requestOf('a.png'));
  const [busy] = sandboxes();
  const begun = Promise.withResolvers<void>();
  const ending = run(requestOf('slow.pdf'), { onFirst: begun.resolve });
  await begun.promise;
  process.kill(busy as number, 'SIGKILL');
  const other = run(requestOf('a.png'));
  expect((await ending).outcome).toMatchObject({ kind: 'died', how: 'killed', error: { code: 'out_of_memory' } });
  expect((await other).outcome.kind).toBe('completed');
});

test('an idle sandbox that is killed fails no task', async () => {
  await run(requestOf('a.png'));
  const [idle] = sandboxes();
  process.kill(idle as number, 'SIGKILL');
  await until(async () => !existsSync(`/proc/${idle}`));
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

test('an abort ends the sandbox, before and during its task', async () => {
  const abort = new AbortController();
  const ending = run(requestOf('slow.pdf'), { signal: abort.signal });
  abort.abort();
  expect((await ending).outcome).toEqual({ kind: 'aborted' });
  expect((await run(requestOf('a.png'), { signal: abort.signal })).outcome).toEqual({ kind: 'aborted' });
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

const SANDBOX_VARIABLES = [
  'DISABLE_SYSTEM_FONTS_LOAD',
  'GLIBC_TUNABLES',
  'HOME',
  'MALLOC_ARENA_MAX',
  'MALLOC_MMAP_THRESHOLD_',
  'MALLOC_TRIM_THRESHOLD_',
  'MIMALLOC_ARENA_EAGER_COMMIT',
  'NODE_COMPILE_CACHE',
  'PATH',
  'TASKS',
  'TMPDIR',
];

test('a sandbox gets no variables of the converter, and the OOM killer kills it first', async () => {
  await run(requestOf('a.png'));
  const [sandbox] = sandboxes();
  const environment = await readFile(`/proc/${sandbox}/environ`, 'utf8');
  const names = environment.split('\0').filter((entry) => entry !== '' && !entry.startsWith('NODE_CHANNEL_'));
  expect(names.map((entry) => entry.split('=')[0]).sort()).toEqual(SANDBOX_VARIABLES);
  expect(await readFile(`/proc/${sandbox}/oom_score_adj`, 'utf8')).toBe('1000\n');
});

test('signals of a terminal do not end a sandbox', async () => {
  await run(requestOf('a.png'));
  const [sandbox] = sandboxes();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.kill(sandbox as number, signal);
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
  expect(sandboxes()).toEqual([sandbox]);
});

/** Runs tasks of an owner in one sandbox, and returns its process id. */
async function sandboxFor(owner: string | null, ...requests: Omit<TaskRequest, 'outputFolder'>[]): Promise<unknown> {
  const lease = pool.lease(256, owner);
  try {
    let pid: unknown;
    for (const request of [...requests, { ...requestOf('a.png', 'where_am_i'), payload: {} }]) {
      const signal = new AbortController().signal;
      const { outcome } = await lease.run(prepareFor(request), {
        deadlineMs: 30_000,
        signal,
        onEvent: () => undefined,
      });
      expect(outcome.kind).toBe('completed');
      if (outcome.kind === 'completed') pid = outcome.result.pid;
    }
    return pid;
  } finally {
    lease.release();
  }
}

describe('a sandbox that has run native code on bytes of one owner', () => {
  test('runs tasks of that owner, and none of another', async () => {
    const first = await sandboxFor('alice', requestOf('a.png'));
    const second = await sandboxFor('bob', requestOf('a.png'));
    const third = await sandboxFor(null, requestOf('a.pdf'));
    expect(new Set([first, second, third]).size).toBe(3);
    expect(await sandboxFor('bob', requestOf('a.png'))).toBe(second);
    expect(await sandboxFor('alice', requestOf('a.pdf'))).toBe(first);
    // Sandboxes of four owners are kept; the fifth replaces the longest idle one.
    await sandboxFor('carol');
    expect(isAlive(Number(third))).toBe(true);
    await sandboxFor('dave');
    await until(async () => !isAlive(Number(third)));
    expect(await sandboxFor('bob')).toBe(second);
  });

  test('is limited to that owner, while one that used only PDFium draws PDFs of all owners', async () => {
    await run(requestOf('a.pdf'), { owner: 'alice' });
    const [clean] = sandboxes();
    await run(requestOf('a.pdf'), { owner: 'bob' });
    expect(sandboxes()).toEqual([clean]);
    expect(await sandboxFor('carol')).toBe(clean);
    await run(requestOf('a.pdf'), { owner: 'bob' });
    expect(sandboxes()).toHaveLength(2);
  });
});

test('with reuse `never`, each task has a separate process', async () => {
  await pool.close();
  pool = startPool('never');
  const seen = new Set<unknown>();
  for (const owner of ['alice', 'alice', 'alice']) {
    const { outcome } = await run({ ...requestOf('a.png', 'where_am_i'), payload: {} }, { owner });
    seen.add(outcome.kind === 'completed' && outcome.result.pid);
    pool.refill();
  }
  expect(seen.size).toBe(3);
});

test('an idle sandbox that sends invalid data is killed', async () => {
  const text = '{"kind":"ended","outcome":{"kind":"completed","result":{}}}\nnonsense\n';
  const { outcome } = await run({ ...requestOf('a.png', 'write_raw'), payload: { text } });
  expect(outcome).toEqual({ kind: 'completed', result: {} });
  await until(async () => sandboxes().length === 0);
  expect((await run(requestOf('a.png'))).outcome.kind).toBe('completed');
});

test('the folder of a sandbox that died is removed when its lease is released', async () => {
  const lease = pool.lease(256, null);
  let output = '';
  const prepare = async (own: PrivateFolder) => {
    output = own.output;
    return { ...requestOf('slow.pdf'), outputFolder: own.output };
  };
  const { outcome } = await lease.run(prepare, {
    deadlineMs: 50,
    signal: new AbortController().signal,
    onEvent: () => undefined,
  });
  expect(outcome).toMatchObject({ kind: 'failed', error: { code: 'timeout' } });
  expect(existsSync(output)).toBe(true);
  lease.release();
  await until(async () => !existsSync(output));
});
