import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TaskEvent, TaskRequest } from '../../converter/run-task.ts';
import { compiledCodeFolder } from '../../converter/sandbox/compiled-code.ts';
import { detectIsolation } from '../../converter/sandbox/isolation/detect.ts';
import type { Lease } from '../../converter/sandbox/lease.ts';
import { limitMemory, readMemory, watchMemory } from '../../converter/sandbox/memory-limit.ts';
import { SandboxPool } from '../../converter/sandbox/pool.ts';
import type { RunResult } from '../../converter/task-runner.ts';
import { BASELINE_MB } from '../../jobs/shape.ts';
import { createLogger } from '../../runtime/log.ts';
import { childrenOf, descendantsOf, killAll } from '../../runtime/process-tree.ts';
import { makeImage } from '../support/files.ts';
import { taskRequest } from '../support/prepare.ts';
import { type Json, until } from '../support/service.ts';
import { commandOf, isAlive, processOf } from './processes.ts';

/** The maximum excess over a reservation, which the watchdog misses between two checks. */
const OVER_MB = 16;
const CLASSES = [256, 384, 512];
const LEAKS = ['leak_native', 'leak_heap', 'leak_wasm'];

const canCap = existsSync('/proc/self/status') && spawnSync('prlimit', ['--version']).status === 0;
const describeWithCaps = canCap ? describe : describe.skip;
const describeWithProc = existsSync('/proc/self/status') ? describe : describe.skip;

const strongest = await detectIsolation();
// Some tasks here read outside the private folder, or look up process ids of the machine.
const none = await detectIsolation({ from: 'memory' });

let folder: string;
let pool: SandboxPool;
let roomMb: number;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-limits-'));
  roomMb = 4096;
});
afterEach(async () => {
  await pool?.close();
  await rm(folder, { recursive: true });
  if (existsSync('/proc')) expect(sandboxes()).toEqual([]);
});

function startPool(keep: number, isolation = none): void {
  pool = new SandboxPool({
    keep,
    roomMb: () => roomMb,
    workFolder: folder,
    // All tests share the compile cache.
    cacheFolder: compiledCodeFolder(folder),
    hidden: [],
    isolation,
    tasksModule: path.resolve(import.meta.dirname, './memory-filling-tasks.ts'),
    log: createLogger('silent', {}),
  });
}

/** The sandboxes of this process, which may have other children. */
function sandboxes(): number[] {
  return childrenOf(process.pid).filter((pid) => isAlive(pid) && commandOf(pid).includes('sandbox/child.ts'));
}

/** Resolves when there are `count` sandboxes. */
function sandboxesOnce(count: number): Promise<number[]> {
  return until(async () => {
    const found = sandboxes();
    return found.length === count && found;
  });
}

function requestOf(type: string, payload: Record<string, unknown>, memoryMb: number): TaskRequest {
  const input = path.join(folder, 'a.png');
  return { ...taskRequest({ type, payload, input, reservation: { cpuUnits: 1, memoryMb } }), outputFolder: folder };
}

interface Use {
  deadlineMs?: number;
  signal?: AbortSignal;
  onEvent?: (event: TaskEvent) => void;
}

function runTask(lease: Lease, request: TaskRequest, use: Use = {}): Promise<RunResult> {
  return lease.run(async () => request, {
    deadlineMs: 30_000,
    signal: new AbortController().signal,
    onEvent: () => {},
    ...use,
  });
}

async function run(type: string, payload: Record<string, unknown>, memoryMb: number, use?: Use): Promise<RunResult> {
  const lease = pool.lease(memoryMb, null);
  try {
    return await runTask(lease, requestOf(type, payload, memoryMb), use);
  } finally {
    lease.release();
  }
}

/** Measures the peak of the process that a task reports; `stop` returns it in MB. */
function measurePeak() {
  let peakMb = 0;
  let timer: NodeJS.Timeout | undefined;
  return {
    onEvent(event: TaskEvent) {
      const pid = pidIn(event);
      if (pid === undefined) return;
      timer ??= setInterval(() => {
        peakMb = Math.max(peakMb, readMemory(pid)?.peakMb ?? 0);
      }, 2);
    },
    stop(): number {
      clearInterval(timer);
      return peakMb;
    },
  };
}

function pidIn(event: TaskEvent): number | undefined {
  if (event.kind !== 'log' || event.data?.pid === undefined) return undefined;
  return processOf(process.pid, event.data as { pid: number; cwd: string });
}

/** Runs a task until it holds its memory; `end` aborts it. */
async function holdBalloon(lease: Lease, megabytes: number, memoryMb: number) {
  const abort = new AbortController();
  const full = Promise.withResolvers<number>();
  const onEvent = (event: TaskEvent) => {
    const pid = pidIn(event);
    if (pid !== undefined) full.resolve(pid);
  };
  const ending = runTask(lease, requestOf('balloon', { megabytes }, memoryMb), { signal: abort.signal, onEvent });
  void ending.then(({ outcome }) => full.reject(new Error(`it ended before it was full: ${JSON.stringify(outcome)}`)));
  return {
    pid: await full.promise,
    async end(): Promise<RunResult> {
      abort.abort();
      return ending;
    },
  };
}

const OUTGROWN = { kind: 'died', how: 'outgrown', error: { code: 'out_of_memory' } };

describeWithCaps('a reservation (needs /proc and prlimit)', () => {
  beforeEach(() => startPool(1, strongest));

  test.each(CLASSES)('stops native, heap and wasm memory at %i MB', async (memoryMb) => {
    const stopped = async (type: string) => {
      const lease = pool.lease(memoryMb, null);
      try {
        const measured = measurePeak();
        const { outcome, peakMemoryMb } = await runTask(lease, requestOf(type, {}, memoryMb), measured);
        const peakMb = Math.max(measured.stop(), peakMemoryMb ?? 0);
        return { type, outcome, peakMb };
      } finally {
        lease.release();
      }
    };
    const ended = await Promise.all(LEAKS.map(stopped));
    expect(ended).toMatchObject(LEAKS.map((type) => ({ type, outcome: OUTGROWN })));
    for (const { peakMb } of ended) {
      // A much lower peak would mean that the task cannot use its reservation.
      expect(peakMb).toBeGreaterThan(memoryMb * 0.75);
      expect(peakMb).toBeLessThanOrEqual(memoryMb + OVER_MB);
    }
  });

  test.each(CLASSES)('can be used up to 16 MB below %i MB, and the peak is reported', async (memoryMb) => {
    const used = memoryMb - 16;
    // A sandbox that still compiles code uses more memory.
    await pool.warm();
    const { outcome, peakMemoryMb } = await run('balloon', { megabytes: used, hold: false }, memoryMb);
    expect(outcome).toEqual({ kind: 'completed', result: expect.anything() });
    expect(peakMemoryMb).toBeGreaterThanOrEqual(used);
    expect(peakMemoryMb).toBeLessThanOrEqual(memoryMb);
  });

  test('is set for each task of a reused sandbox, and the peak is reset', async () => {
    const balloon = (megabytes: number, memoryMb: number) => run('balloon', { megabytes, hold: false }, memoryMb);
    const small = await balloon(200, 384);
    const [sandbox] = sandboxes();
    const large = await balloon(480, 512);
    expect(sandboxes()).toEqual([sandbox]);
    const again = await balloon(160, 384);
    expect(sandboxes()).toEqual([sandbox]);
    expect([small, large, again].map(({ outcome }) => outcome.kind)).toEqual(['completed', 'completed', 'completed']);
    expect(large.peakMemoryMb).toBeGreaterThanOrEqual(480);
    expect(again.peakMemoryMb).toBeLessThanOrEqual(384);

    const measured = measurePeak();
    const { outcome, peakMemoryMb } = await run('leak_native', {}, 384, measured);
    expect(outcome).toMatchObject(OUTGROWN);
    expect(Math.max(measured.stop(), peakMemoryMb ?? 0)).toBeLessThanOrEqual(384 + OVER_MB);
    expect(isAlive(sandbox as number)).toBe(false);
  });

  test.each([
    ['its process group', false],
    ['separate process groups', true],
  ])('includes the child processes of a task, in %s', async (_where, detached) => {
    const started: number[] = [];
    const onEvent = (event: TaskEvent) => {
      const pid = pidIn(event);
      if (pid !== undefined) started.push(pid);
    };
    const { outcome, peakMemoryMb } = await run('swarm', { children: 6, megabytes: 30, detached }, 384, { onEvent });
    expect(outcome).toMatchObject(OUTGROWN);
    // Two fit; the third may be killed before it is reported.
    expect(started.length).toBeGreaterThan(1);
    await until(async () => !started.some(isAlive));
    expect(peakMemoryMb).toBeGreaterThan(384);
    // Each uses some 85 MB, and one more may start before the next check.
    expect(peakMemoryMb).toBeLessThan(384 + 2 * 90);
  });

  test('above 512 MB lowers the priority of all threads, and its sandbox is not reused', async () => {
    const small = pool.lease(512, null);
    const usual = await holdBalloon(small, 160, 512);
    const lease = pool.lease(768, null);
    const low = await holdBalloon(lease, 160, 768);
    expect(new Set(nicesOf(usual.pid))).toEqual(new Set([0]));
    expect(nicesOf(low.pid).length).toBeGreaterThan(4);
    expect(new Set(nicesOf(low.pid))).toEqual(new Set([10]));
    // Where Linux groups processes by session, priorities count between groups.
    const groups = [usual, low].map(({ pid }) => groupNice(pid));
    expect(groups).toEqual(groups[0] === undefined ? [undefined, undefined] : [0, 10]);
    await Promise.all([usual.end(), low.end()]);
    small.release();
    lease.release();

    const other = pool.lease(768, null);
    expect((await runTask(other, requestOf('look_for', { pids: [] }, 768))).outcome.kind).toBe('completed');
    expect(sandboxes()).toEqual([]);
    other.release();
  }, 180_000);
});

describeWithProc('the processes that a task leaves behind (needs /proc)', () => {
  beforeEach(() => startPool(1));

  test('a child process ends with its sandbox after the release', async () => {
    const lease = pool.lease(256, null);
    const { outcome } = await runTask(lease, requestOf('litter', {}, 256));
    const { pid } = (outcome as Json).result;
    const [sandbox] = sandboxes();
    expect(isAlive(pid)).toBe(true);
    lease.release();
    await until(async () => !isAlive(pid) && !isAlive(sandbox as number));
  });

  test('an orphaned child process ends at the latest with its sandbox', async () => {
    const { outcome } = await run('litter', { orphan: true }, 256);
    await pool.close();
    await until(async () => !isAlive((outcome as Json).result.pid));
  });

  test('an endless native call is killed at its deadline', async () => {
    const lease = pool.lease(256, null);
    await runTask(lease, requestOf('look_for', { pids: [] }, 256));
    const [sandbox] = sandboxes();
    const began = performance.now();
    const { outcome } = await runTask(lease, requestOf('stuck', {}, 256), { deadlineMs: 700 });
    const took = performance.now() - began;
    expect(outcome).toMatchObject({ kind: 'failed', retryable: true, error: { code: 'timeout' } });
    // Half a second is the grace period after the abort.
    expect(took).toBeGreaterThanOrEqual(1_190);
    expect(isAlive(sandbox as number)).toBe(false);
    lease.release();
  });
});

describeWithProc('by process id (needs /proc)', () => {
  const started: ChildProcess[] = [];
  afterEach(async () => {
    for (const child of started.splice(0)) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
  });

  /** Starts a process group, and waits for its first line of output. */
  async function start(command: string, args: string[]): Promise<{ child: ChildProcess; pid: number; line: string }> {
    const child = spawn(command, args, { detached: true, stdio: ['ignore', 'pipe', 'ignore'] });
    started.push(child);
    const [line] = await once(child.stdout, 'data');
    return { child, pid: child.pid as number, line: String(line) };
  }

  test('all descendants are found and killed, in any process group', async () => {
    const inner = "sh -c 'setsid sleep 60 & sleep 60; wait'";
    const { child, pid } = await start('sh', ['-c', `echo; sleep 60 & ${inner} & wait`]);
    await until(async () => descendantsOf(pid).filter((one) => commandOf(one).startsWith('sleep')).length === 3);
    const found = descendantsOf(pid);
    expect(found).toHaveLength(4);
    const exited = once(child, 'exit');
    killAll([-pid, ...descendantsOf(pid)]);
    expect(await exited).toEqual([null, 'SIGKILL']);
    await until(async () => !found.some(isAlive));
    expect(descendantsOf(pid)).toEqual([]);
  });

  test('a process that is gone has no memory, no limit and no children, and killing it does not throw', async () => {
    const { child, pid } = await start('sh', ['-c', 'echo; exit']);
    if (child.exitCode === null) await once(child, 'exit');
    expect(readMemory(pid)).toBeNull();
    expect(await limitMemory(pid, 256, null)).toBeNull();
    expect(descendantsOf(pid)).toEqual([]);
    killAll([-pid, ...descendantsOf(pid)]);
    const watch = watchMemory(pid, 1, () => {
      throw new Error('there was nothing to see');
    });
    expect(watch.stop()).toBeNull();
  });

  test('the watchdog stops a process without a limit, and reports the peak', async () => {
    const grow = 'const kept = []; console.log(); setInterval(() => kept.push(Buffer.alloc(2 ** 20, 1)), 5)';
    const { child, pid } = await start(process.execPath, ['-e', grow]);
    const exited = once(child, 'exit');
    const watch = watchMemory(pid, 150, () => killAll([-pid, ...descendantsOf(pid)]));
    expect(await exited).toEqual([null, 'SIGKILL']);
    const peakMb = watch.stop();
    expect(peakMb).toBeGreaterThan(150);
    expect(peakMb).toBeLessThan(150 + 64);
  });

  test('the peak is measured from the start of the watch', async () => {
    const shrink = `let kept = Buffer.alloc(200 * 2 ** 20, 1); kept = null; gc(); console.log(); setInterval(() => {}, 60_000)`;
    const { pid } = await start(process.execPath, ['--expose-gc', '-e', shrink]);
    expect(readMemory(pid)?.peakMb).toBeGreaterThan(200);
    expect(watchMemory(pid, 1024, () => undefined).stop()).toBeLessThan(150);
  });
});

describeWithProc('idle sandboxes (needs /proc)', () => {
  test('are started in advance, up to their number and the free memory', async () => {
    startPool(3);
    await sandboxesOnce(3);
    await pool.close();
    roomMb = 2 * BASELINE_MB + 50;
    startPool(3);
    await sandboxesOnce(2);
    expect((await run('look_for', { pids: [] }, 256)).outcome.kind).toBe('completed');
    expect(sandboxes()).toHaveLength(2);
  });

  test('end before a task that needs their memory, and are started again after it', async () => {
    startPool(3);
    const before = await sandboxesOnce(3);
    const lease = pool.lease(512, null);
    roomMb = 0;
    // The converter does so after each claim.
    void pool.makeRoom();
    const { outcome } = await runTask(lease, requestOf('look_for', { pids: before }, 512));
    const { pid } = (outcome as Json).result;
    expect(before).toContain(pid);
    expect(outcome).toMatchObject({ kind: 'completed', result: { found: [pid] } });
    expect(sandboxes()).toEqual([pid]);

    roomMb = 4096;
    lease.release();
    pool.refill();
    expect(await sandboxesOnce(3)).toContain(pid);
  });

  test('end only until there is enough memory', async () => {
    startPool(3);
    const before = await sandboxesOnce(3);
    roomMb = BASELINE_MB + 20;
    // A second call waits for the same sandboxes.
    void pool.makeRoom();
    await pool.makeRoom();
    expect(before.filter(isAlive)).toHaveLength(1);
  });

  test('convert a small image without starting a process', async () => {
    startPool(1);
    await writeFile(path.join(folder, 'a.png'), await makeImage());
    const before = await sandboxesOnce(1);
    const payload = { upload_id: 'u', original: 1, path: 'a.png', media_type: 'image/png', dpi: 72 };
    const { outcome } = await run('convert', { ...payload, page_selection: null }, 256);
    expect(outcome).toEqual({ kind: 'completed', result: { pages: 1 } });
    expect(sandboxes()).toEqual(before);
  });
});

/** The priority of a process's session group; undefined where the kernel has none. */
function groupNice(pid: number): number | undefined {
  const file = `/proc/${pid}/autogroup`;
  return existsSync(file) ? Number(/nice (-?\d+)/.exec(readFileSync(file, 'utf8'))?.[1]) : undefined;
}

/** The priority of each thread of a process. */
function nicesOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    // The name in brackets may contain anything. After it, the priority is the 17th field.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
  });
}
