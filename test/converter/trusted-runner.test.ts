import { z } from 'zod';
import type { TaskEvent, TaskRequest } from '../../converter/run-task.ts';
import { YIELD_MS } from '../../converter/sandbox/run.ts';
import { runTrusted } from '../../converter/trusted-runner.ts';
import { defineTask, type TaskContext } from '../../jobs/task.ts';
import { AppError } from '../../runtime/errors.ts';

// A module has no global `jest`.
const { jest } = import.meta;
beforeEach(() => jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask'] }));
afterEach(() => {
  expect(jest.getTimerCount()).toBe(0);
  jest.useRealTimers();
});

const REQUEST: TaskRequest = {
  type: 'test',
  payload: {},
  attempt: 1,
  files: { originals: [], pages: [] },
  input: '',
  password: null,
  dependencies: [],
  settledPages: [],
  avoid: [],
  reservation: { cpuUnits: 1, memoryMb: 256 },
  limits: { maxPages: 1, maxPixels: 1, stepSeconds: 30, firstEngine: 'pdf-to-img' },
  outputFolder: '/out',
};

type Work = (context: TaskContext<Record<string, unknown>>) => Promise<Record<string, unknown>>;

/** Runs a trusted task that does this, with a second for it. */
function start(work: Work) {
  const aborter = new AbortController();
  const events: TaskEvent[] = [];
  const task = defineTask({
    type: 'test',
    payload: z.record(z.string(), z.unknown()),
    resources: { cpuUnits: 0, memoryMb: 256 },
    trusted: true,
    run: work,
  });
  const ended = runTrusted(task, REQUEST, {
    deadlineMs: 1_000,
    signal: aborter.signal,
    onEvent: (event) => events.push(event),
  });
  return { aborter, events, ended };
}

/** Ends when it is told to. */
const obedient: Work = ({ signal }) =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
const deaf: Work = () => new Promise(() => undefined);
const TIMEOUT = { kind: 'failed', error: { code: 'timeout', message: 'took longer than 1 s' }, retryable: true };

test('a task that completes gives its result, and leaves nothing behind', async () => {
  const { ended, events, aborter } = start(async ({ progress }) => {
    progress(1, 1);
    return { done: true };
  });
  expect(await ended).toEqual({
    outcome: { kind: 'completed', result: { done: true } },
    peakMemoryMb: null,
    step: null,
    spentSeconds: 0,
  });
  expect(events).toEqual([{ kind: 'progress', progress: { done: 1, total: 1 } }]);
  aborter.abort();
  expect(jest.getTimerCount()).toBe(0);
});

test('a task that throws, at once or later, fails its attempt alone', async () => {
  const outright = start(() => {
    throw new AppError('corrupt_file', 'no PDF');
  });
  expect((await outright.ended).outcome).toMatchObject({ error: { code: 'corrupt_file' }, retryable: false });
  const later = start(async () => {
    throw new Error('did not work');
  });
  expect((await later.ended).outcome).toMatchObject({ error: { code: 'task_failed', message: 'did not work' } });
});

test('a task that heeds its deadline has timed out', async () => {
  const { ended } = start(obedient);
  await jest.advanceTimersByTimeAsync(1_000);
  expect((await ended).outcome).toEqual(TIMEOUT);
});

test('a task that does not heed its deadline is left behind, and has timed out', async () => {
  const { ended } = start(deaf);
  await jest.advanceTimersByTimeAsync(1_000 + YIELD_MS);
  expect((await ended).outcome).toEqual(TIMEOUT);
});

test('a task that is told to end is aborted, whether it heeds or not', async () => {
  for (const work of [obedient, deaf]) {
    const { ended, aborter } = start(work);
    aborter.abort();
    await jest.advanceTimersByTimeAsync(YIELD_MS);
    expect((await ended).outcome).toEqual({ kind: 'aborted' });
  }
});

test('a task that completes although it was told to end has completed', async () => {
  const { ended, aborter } = start(
    ({ signal }) => new Promise((resolve) => signal.addEventListener('abort', () => resolve({ quick: true }))),
  );
  aborter.abort();
  expect((await ended).outcome).toEqual({ kind: 'completed', result: { quick: true } });
});

test('a task that is told to end before it starts ends', async () => {
  const aborted = AbortSignal.abort();
  const task = defineTask({
    type: 'test',
    payload: z.strictObject({}),
    resources: { cpuUnits: 0, memoryMb: 256 },
    trusted: true,
    run: deaf,
  });
  const ended = runTrusted(task as never, REQUEST, { deadlineMs: 1_000, signal: aborted, onEvent: () => undefined });
  await jest.advanceTimersByTimeAsync(YIELD_MS);
  expect((await ended).outcome).toEqual({ kind: 'aborted' });
});

test('what a task tells after it was left behind is not heard', async () => {
  let context: TaskContext<Record<string, unknown>> | undefined;
  const { ended, events, aborter } = start((given) => {
    context = given;
    given.progress(1);
    return deaf(given);
  });
  aborter.abort();
  await jest.advanceTimersByTimeAsync(YIELD_MS);
  await ended;
  context?.progress(2);
  context?.log('info', 'still here');
  expect(events).toHaveLength(1);
});
