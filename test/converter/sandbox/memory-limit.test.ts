import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TaskEvent, TaskRequest } from '../../../converter/run-task.ts';
import { compiledCodeFolder } from '../../../converter/sandbox/compiled-code.ts';
import { detectIsolation } from '../../../converter/sandbox/isolation/detect.ts';
import type { Lease } from '../../../converter/sandbox/lease.ts';
import { limitMemory, readMemory, watchMemory } from '../../../converter/sandbox/memory-limit.ts';
import { SandboxPool } from '../../../converter/sandbox/pool.ts';
import type { RunResult } from '../../../converter/task-runner.ts';
import { BASELINE_MB } from '../../../jobs/shape.ts';
import { createLogger } from '../../../runtime/log.ts';
import { descendantsOf, killAll } from '../../../runtime/process-tree.ts';
import { childrenOf, commandOf, isAlive, processOf } from '../../scenarios/processes.ts';
import { makeImage } from '../../support/files.ts';
import { taskRequest } from '../../support/prepare.ts';
import { type Json, until } from '../../support/service.ts';

/** How far above its reservation a sandbox may be measured: what the watchdog lets pass between two looks. */
const OVER_MB = 16;
const CLASSES = [256, 384, 512];
const LEAKS = ['leak_native', 'leak_heap', 'leak_wasm'];

const canCap = existsSync('/proc/self/status') && spawnSync('prlimit', ['--version']).status === 0;
const describeWithCaps = canCap ? describe : describe.skip;
const describeWithProc = existsSync('/proc/self/status') ? describe : describe.skip;

const strongest = await detectIsolation();
// Some tasks here read outside the private folder, or look for processes by ids of the machine.
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
    // The sandboxes of the whole run compile their code once.
    cacheFolder: compiledCodeFolder(folder),
    hidden: [],
    isolation,
    tasksModule: path.resolve(import.meta.dirname, '../../scenarios/memory-filling-tasks.ts'),
    log: createLogger('silent', {}),
  });
}

/** Our sandboxes among the children of this process, which may have others. */
function sandboxes(): number[] {
  return childrenOf(process.pid).filter((pid) => isAlive(pid) && commandOf(pid).includes('sandbox/child.ts'));
}

/** The sandboxes once there are so many; one that was just forked has no command line yet. */
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

/** Asks for the peak of the process that a task names, as often as can be; `stop` gives the highest, in MB. */
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

/** A task that has said where it is and that it is full; `end` aborts it. */
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

  test.each(CLASSES)('of %i MB stops native, heap and wasm memory there', async (memoryMb) => {
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
      // Not far below either: then a reservation would not be worth its size.
      expect(peakMb).toBeGreaterThan(memoryMb * 0.75);
      expect(peakMb).toBeLessThanOrEqual(memoryMb + OVER_MB);
    }
  });

  test.each(CLASSES)('of %i MB may be used up to 16 MB below it, and its peak is told', async (memoryMb) => {
    const used = memoryMb - 16;
    // A sandbox that still compiles code holds more for a moment.
    await pool.warm();
    const { outcome, peakMemoryMb } = await run('balloon', { megabytes: used, hold: false }, memoryMb);
    expect(outcome).toEqual({ kind: 'completed', result: expect.anything() });
    expect(peakMemoryMb).toBeGreaterThanOrEqual(used);
    expect(peakMemoryMb).toBeLessThanOrEqual(memoryMb);
  });

  test('is set anew for each task of a sandbox that is used again, and so is the peak', async () => {
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
    ['groups of their own', true],
  ])('counts what a task has started, and goes over with all of it: in %s', async (_where, detached) => {
    const started: number[] = [];
    const onEvent = (event: TaskEvent) => {
      const pid = pidIn(event);
      if (pid !== undefined) started.push(pid);
    };
    const { outcome, peakMemoryMb } = await run('swarm', { children: 6, megabytes: 30, detached }, 384, { onEvent });
    expect(outcome).toMatchObject(OUTGROWN);
    // Two fit in; the third may not have been told of when it is too much.
    expect(started.length).toBeGreaterThan(1);
    await until(async () => !started.some(isAlive));
    expect(peakMemoryMb).toBeGreaterThan(384);
    // Each takes some 85 MB: one more may come before the watchdog looks.
    expect(peakMemoryMb).toBeLessThan(384 + 2 * 90);
  });

  test('of more than 512 MB works at a low priority, all its threads, and is not used again', async () => {
    const small = pool.lease(512, null);
    const usual = await holdBalloon(small, 160, 512);
    const lease = pool.lease(768, null);
    const low = await holdBalloon(lease, 160, 768);
    expect(new Set(nicesOf(usual.pid))).toEqual(new Set([0]));
    expect(nicesOf(low.pid).length).toBeGreaterThan(4);
    expect(new Set(nicesOf(low.pid))).toEqual(new Set([10]));
    // Where it groups processes by session, Linux weighs groups against each other, and not what is in them.
    const groups = [usual, low].map(({ pid }) => groupNice(pid));
    expect(groups).toEqual(groups[0] === undefined ? [undefined, undefined] : [0, 10]);
    await Promise.all([usual.end(), low.end()]);
    small.release();
    lease.release();

    const other = pool.lease(768, null);
    expect((await runTask(other, requestOf('look_for', { pids: [] }, 768))).outcome.kind).toBe('completed');
    expect(sandboxes()).toEqual([]);
    other.release();
    // Others come first when processors are short.
  }, 180_000);
});

describeWithProc('what a task leaves behind (needs /proc)', () => {
  beforeEach(() => startPool(1));

  test('a process is gone once the lease is released, and its sandbox with it', async () => {
    const lease = pool.lease(256, null);
    const { outcome } = await runTask(lease, requestOf('litter', {}, 256));
    const { pid } = (outcome as Json).result;
    const [sandbox] = sandboxes();
    expect(isAlive(pid)).toBe(true);
    lease.release();
    await until(async () => !isAlive(pid) && !isAlive(sandbox as number));
  });

  test('a process whose own parent has ended is gone at the latest when its sandbox is', async () => {
    const { outcome } = await run('litter', { orphan: true }, 256);
    await pool.close();
    await until(async () => !isAlive((outcome as Json).result.pid));
  });

  test('an endless native call ends with timeout at its deadline, and its process is gone', async () => {
    const lease = pool.lease(256, null);
    await runTask(lease, requestOf('look_for', { pids: [] }, 256));
    const [sandbox] = sandboxes();
    const began = performance.now();
    const { outcome } = await runTask(lease, requestOf('stuck', {}, 256), { deadlineMs: 700 });
    const took = performance.now() - began;
    expect(outcome).toMatchObject({ kind: 'failed', retryable: true, error: { code: 'timeout' } });
    // It was given half a second to end by itself.
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

  /** A process that leads a group, and has printed its first line. */
  async function start(command: string, args: string[]): Promise<{ child: ChildProcess; pid: number; line: string }> {
    const child = spawn(command, args, { detached: true, stdio: ['ignore', 'pipe', 'ignore'] });
    started.push(child);
    const [line] = await once(child.stdout, 'data');
    return { child, pid: child.pid as number, line: String(line) };
  }

  test('children and theirs are found and killed, in whatever group they are', async () => {
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

  test('what is gone has no memory, no cap and no children, and is killed without complaint', async () => {
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

  test('without a cap, the watchdog sees who grows too large, and tells the peak', async () => {
    const grow = 'const kept = []; console.log(); setInterval(() => kept.push(Buffer.alloc(2 ** 20, 1)), 5)';
    const { child, pid } = await start(process.execPath, ['-e', grow]);
    const exited = once(child, 'exit');
    const watch = watchMemory(pid, 150, () => killAll([-pid, ...descendantsOf(pid)]));
    expect(await exited).toEqual([null, 'SIGKILL']);
    const peakMb = watch.stop();
    expect(peakMb).toBeGreaterThan(150);
    expect(peakMb).toBeLessThan(150 + 64);
  });

  test('a peak is measured from when the watch began', async () => {
    const shrink = `let kept = Buffer.alloc(200 * 2 ** 20, 1); kept = null; gc(); console.log(); setInterval(() => {}, 60_000)`;
    const { pid } = await start(process.execPath, ['--expose-gc', '-e', shrink]);
    expect(readMemory(pid)?.peakMb).toBeGreaterThan(200);
    expect(watchMemory(pid, 1024, () => undefined).stop()).toBeLessThan(150);
  });
});

describeWithProc('idle sandboxes (needs /proc)', () => {
  test('are started ahead, as many as are to be kept and as the room holds', async () => {
    startPool(3);
    await sandboxesOnce(3);
    await pool.close();
    roomMb = 2 * BASELINE_MB + 50;
    startPool(3);
    await sandboxesOnce(2);
    expect((await run('look_for', { pids: [] }, 256)).outcome.kind).toBe('completed');
    expect(sandboxes()).toHaveLength(2);
  });

  test('are gone before a task begins that leaves them no room, and come back after it', async () => {
    startPool(3);
    const before = await sandboxesOnce(3);
    const lease = pool.lease(512, null);
    roomMb = 0;
    // As the converter does as soon as it has claimed.
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

  test('end only as far as the room demands', async () => {
    startPool(3);
    const before = await sandboxesOnce(3);
    roomMb = BASELINE_MB + 20;
    // Whoever asks while they end waits, too.
    void pool.makeRoom();
    await pool.makeRoom();
    expect(before.filter(isAlive)).toHaveLength(1);
  });

  test('take a small image without a process being started', async () => {
    startPool(1);
    await writeFile(path.join(folder, 'a.png'), await makeImage());
    const before = await sandboxesOnce(1);
    const payload = { upload_id: 'u', original: 1, path: 'a.png', media_type: 'image/png', dpi: 72 };
    const { outcome } = await run('convert', { ...payload, page_selection: null }, 256);
    expect(outcome).toEqual({ kind: 'completed', result: { pages: 1 } });
    expect(sandboxes()).toEqual(before);
  });
});

/** The niceness of the session's group that a process is in; undefined where there are no such groups. */
function groupNice(pid: number): number | undefined {
  const file = `/proc/${pid}/autogroup`;
  return existsSync(file) ? Number(/nice (-?\d+)/.exec(readFileSync(file, 'utf8'))?.[1]) : undefined;
}

/** The niceness of each thread of a process. */
function nicesOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    // Fields from the third on follow the name, which may hold anything; niceness is the 19th.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
  });
}
