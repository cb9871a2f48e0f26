/**
 * Example tasks, and how to write your own: a module whose default export is a list of tasks.
 *
 *     import { z } from 'zod';
 *     import { defineTask } from '../../jobs/task.ts';
 *
 *     const greet = defineTask({
 *       type: 'greet',
 *       payload: z.strictObject({ name: z.string() }),
 *       resources: { cpuUnits: 1, memoryMb: 256 },
 *       run: async ({ payload }) => ({ greeting: `Hello, ${payload.name}` }),
 *     });
 *     export default [greet];
 *
 * `run` also gets `dependencies`, the results of the jobs that its job depends on, as `collect` below shows.
 *
 * A task runs in a sandbox unless it is `trusted`. The API and the converters must load the same module:
 *
 *     TASKS=./examples/tasks/index.ts npm start
 *     curl -H 'content-type: application/json' -d '{"type": "prime", "payload": {"input": 1000}}' http://127.0.0.1:3000/jobs
 */
import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { defineTask } from '../../jobs/task.ts';

const resources = { cpuUnits: 1, memoryMb: 256 };
const anyPayload = z.record(z.string(), z.unknown()).default({});

function wholeNumber(from: number, to: number) {
  const error = `must be a whole number from ${from} to ${to}`;
  return z.int({ error, abort: true }).min(from, error).max(to, error);
}

const seconds = z
  .number('must be a number of seconds from 0 to 3600')
  .min(0, 'must be from 0 to 3600 seconds')
  .max(3600, 'must be from 0 to 3600 seconds');

/** Waits, and throws the reason of the signal when it is aborted. */
async function pause(length: number, signal: AbortSignal): Promise<void> {
  await setTimeout(length * 1000, undefined, { signal }).catch(() => signal.throwIfAborted());
}

const sleep = defineTask({
  type: 'sleep',
  payload: z.strictObject({ input: seconds }),
  resources,
  trusted: true,
  async run({ payload, signal }) {
    await pause(payload.input, signal);
    return { slept_seconds: payload.input };
  },
});

const prime = defineTask({
  type: 'prime',
  payload: z.strictObject({ input: wholeNumber(1, 200_000) }),
  resources,
  run: async ({ payload }) => ({ output: nthPrime(payload.input) }),
});

function nthPrime(n: number): number {
  const primes = [2];
  for (let candidate = 3; primes.length < n; candidate += 2) {
    if (!hasDivisor(candidate, primes)) primes.push(candidate);
  }
  return primes.at(-1) ?? 2;
}

function hasDivisor(candidate: number, primes: number[]): boolean {
  for (const prime of primes) {
    if (prime * prime > candidate) return false;
    if (candidate % prime === 0) return true;
  }
  return false;
}

const fibonacci = defineTask({
  type: 'fibonacci',
  payload: z
    .strictObject({ input: wholeNumber(0, 100_000), recursive: z.boolean().default(false) })
    .refine(({ input, recursive }) => !recursive || input <= 45, {
      path: ['input'],
      error: 'must be a whole number from 0 to 45 if recursive',
    }),
  resources,
  run: async ({ payload: { input, recursive } }) => ({
    output: String(recursive ? slowFibonacci(input) : fastFibonacci(input)),
  }),
});

function fastFibonacci(n: number): bigint {
  let [current, next] = [0n, 1n];
  for (let step = 0; step < n; step++) [current, next] = [next, current + next];
  return current;
}

/** Takes exponential time on purpose, to use CPU: seconds at 45. */
function slowFibonacci(n: number): number {
  return n < 2 ? n : slowFibonacci(n - 1) + slowFibonacci(n - 2);
}

const matrix = defineTask({
  type: 'matrix',
  payload: z.strictObject({ size: wholeNumber(1, 1000) }),
  resources,
  async run({ payload: { size } }) {
    const left = Float64Array.from({ length: size * size }, (_, index) => index % 10);
    const right = Float64Array.from({ length: size * size }, (_, index) => (index + 1) % 7);
    const product = multiply(left, right, size);
    return { size, checksum: product.reduce((sum, value) => (sum * 31 + value) % 1_000_000_007, 0) };
  },
});

/** Square matrices, row by row. */
function multiply(left: Float64Array, right: Float64Array, size: number): Float64Array {
  const product = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      let sum = 0;
      for (let k = 0; k < size; k++) sum += (left[row * size + k] ?? 0) * (right[k * size + column] ?? 0);
      product[row * size + column] = sum;
    }
  }
  return product;
}

const reverse = defineTask({
  type: 'reverse',
  payload: z.strictObject({
    input: z.string().max(100_000, 'must be from 0 to 100000 characters long'),
    delay_seconds: seconds.default(0),
  }),
  resources,
  trusted: true,
  async run({ payload, signal }) {
    await pause(payload.delay_seconds, signal);
    // By code points: swapped halves of a surrogate pair are not a character.
    return { output: [...payload.input].reverse().join('') };
  },
});

const fail = defineTask({
  type: 'fail',
  payload: z.strictObject({ times: wholeNumber(0, 100) }),
  resources,
  trusted: true,
  async run({ payload, attempt }) {
    if (attempt <= payload.times) throw new Error(`attempt ${attempt} of this job fails, as asked`);
    return { attempts: attempt };
  },
});

/** Does nothing and reserves no CPU, to measure the cost of the queue. */
const noop = defineTask({
  type: 'noop',
  payload: anyPayload,
  resources: { cpuUnits: 0, memoryMb: 256 },
  trusted: true,
  run: async () => ({}),
});

/** Returns the results of the jobs that its job depends on. */
const collect = defineTask({
  type: 'collect',
  payload: anyPayload,
  resources,
  trusted: true,
  run: async ({ dependencies }) => ({
    dependencies: dependencies.map(({ id, status, result }) => ({ id, status, result })),
  }),
});

const SIMULATED = [
  { type: 'email', length: 0.1 },
  { type: 'send_email', length: 0.1 },
  { type: 'data_export', length: 0.4 },
  { type: 'data_fetch', length: 0.2 },
  { type: 'data_processing', length: 0.5 },
  { type: 'report_generation', length: 0.3 },
  { type: 'generate_report', length: 0.3 },
];

/** Simulates work for clients. */
function simulate({ type, length }: (typeof SIMULATED)[number]) {
  const steps = 4;
  return defineTask({
    type,
    payload: anyPayload,
    resources,
    trusted: true,
    async run({ payload, signal, log, progress }) {
      log('info', `${type} begins`, { given: Object.keys(payload) });
      for (let step = 1; step <= steps; step++) {
        await pause(length / steps, signal);
        progress(step, steps);
      }
      log('info', `${type} finished (simulated)`);
      return { simulated: true, seconds: length };
    },
  });
}

export default [sleep, prime, fibonacci, matrix, reverse, fail, noop, collect, ...SIMULATED.map(simulate)];
