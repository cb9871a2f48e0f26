import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setImmediate as breathe, setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { defineTask, type TaskContext } from '../../jobs/task.ts';

/** Tasks that take more than is good: memory of each kind, time, processes. A module for `TASKS`. */

const MB = 2 ** 20;
const resources = { cpuUnits: 1, memoryMb: 256 };
const nothing = z.strictObject({});
const megabytes = z.int().min(1);
const WASM_PAGE = 65_536;
/** The number of values that fill 4 MB. */
const WASM_PAGES = 64;
/** The part of it that is used here: `lib` has it with the browser's things alone. */
const { Memory } = (globalThis as unknown as { WebAssembly: { Memory: new (size: object) => WasmMemory } }).WebAssembly;

interface WasmMemory {
  buffer: ArrayBuffer;
  grow(pages: number): number;
}

/** The number of arrays that fill 4 MB. */
const ARRAYS = 512;

/** Blocks the thread for 5 ms, so that the watchdog, which samples every 50 ms, sees a leak of 4 MB at a time grow. */
function block(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
}

/** Fills Buffers for ever: memory that V8 does not manage. This one and the next two say first which process they are. */
const leakNative = defineTask({
  type: 'leak_native',
  payload: nothing,
  resources,
  async run({ log }) {
    await introduce(log);
    const kept: Buffer[] = [];
    for (;;) {
      kept.push(Buffer.alloc(2 * MB, 1));
      block();
      await breathe();
    }
  },
});

/** Makes arrays for ever, without a pause. */
const leakHeap = defineTask({
  type: 'leak_heap',
  payload: nothing,
  resources,
  async run({ log }) {
    await introduce(log);
    const kept: number[][] = [];
    for (;;) {
      kept.push(new Array(1024).fill(kept.length));
      if (kept.length % ARRAYS === 0) block();
    }
  },
});

/** Lets the memory of a WebAssembly module grow for ever, without a pause. */
const leakWasm = defineTask({
  type: 'leak_wasm',
  payload: nothing,
  resources,
  async run({ log }) {
    await introduce(log);
    const memory = new Memory({ initial: 0, maximum: 65_536 });
    for (;;) {
      const from = memory.grow(WASM_PAGES) * WASM_PAGE;
      new Uint8Array(memory.buffer, from, WASM_PAGES * WASM_PAGE).fill(1);
      block();
    }
  },
});

/** Matches a regular expression that backtracks for years: meanwhile no JavaScript runs and no signal is handled. */
const stuck = defineTask({
  type: 'stuck',
  payload: nothing,
  resources,
  run: async () => ({ matches: /^(a+)+$/.test(`${'a'.repeat(60)}b`) }),
});

/**
 * Holds memory in child processes, started one after another, and logs `child` with the id of each; `detached` ones
 * lead separate process groups.
 */
const swarm = defineTask({
  type: 'swarm',
  payload: z.strictObject({ children: z.int().min(1), megabytes, detached: z.boolean().default(false) }),
  resources,
  async run({ payload, signal, log, progress }) {
    for (let count = 1; count <= payload.children; count++) {
      const child = startChild(payload.megabytes, { stdio: ['ignore', 'pipe', 'ignore'], detached: payload.detached });
      log('info', 'child', { pid: child.pid, cwd: process.cwd() });
      await Promise.race([once(child.stdout as NodeJS.ReadableStream, 'data'), once(child, 'exit')]);
      progress(count, payload.children);
    }
    return await untilAborted(signal);
  },
});

/** Ends well and leaves a process behind; with `orphan`, one whose parent has ended. */
const litter = defineTask({
  type: 'litter',
  payload: z.strictObject({ orphan: z.boolean().default(false) }),
  resources,
  async run({ payload }) {
    if (!payload.orphan) {
      const child = startChild(1, { stdio: 'ignore' });
      child.unref();
      return { pid: child.pid };
    }
    const shell = spawn('sh', ['-c', 'sleep 60 > /dev/null & echo $!'], { stdio: ['ignore', 'pipe', 'ignore'] });
    const [pid] = await once(shell.stdout, 'data');
    await once(shell, 'exit');
    return { pid: Number(pid) };
  },
});

/** Grows until so much of its process is resident, says `full`, and holds that until it is aborted, or not at all. */
const balloon = defineTask({
  type: 'balloon',
  payload: z.strictObject({ megabytes, hold: z.boolean().default(true) }),
  resources,
  async run({ payload, signal, log, progress }) {
    const kept: Buffer[] = [];
    while (process.memoryUsage.rss() < payload.megabytes * MB) {
      kept.push(Buffer.alloc(MB, 1));
      await breathe();
    }
    log('info', 'full', { pid: process.pid, cwd: process.cwd(), parts: kept.length });
    progress(payload.megabytes, payload.megabytes);
    if (payload.hold) await untilAborted(signal);
    return { parts: kept.length };
  },
});

/** Returns the ids of those processes that exist when it starts. */
const lookFor = defineTask({
  type: 'look_for',
  payload: z.strictObject({ pids: z.array(z.int()) }),
  resources,
  run: async ({ payload }) => ({ pid: process.pid, found: payload.pids.filter(isThere) }),
});

async function introduce(log: TaskContext<unknown>['log']): Promise<void> {
  log('info', 'begins', { pid: process.pid, cwd: process.cwd() });
  await breathe();
}

/** A process that holds so much until it is killed, or for a minute: long enough for a watchdog to find it. */
function startChild(size: number, options: SpawnOptions): ChildProcess {
  const code = `const kept = Buffer.alloc(${size * MB}, 1); console.log(kept.length); setTimeout(() => kept, 60_000)`;
  return spawn(process.execPath, ['-e', code], options);
}

async function untilAborted(signal: TaskContext<unknown>['signal']): Promise<never> {
  for (;;) {
    await delay(60_000, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

function isThere(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

export default [leakNative, leakHeap, leakWasm, stuck, swarm, litter, balloon, lookFor];
