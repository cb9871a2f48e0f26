import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import type { TaskEvent } from '../../converter/run-task.ts';
import { ABORT_GRACE_MS } from '../../converter/task-runner.ts';
import { TrustedRunner } from '../../converter/trusted-runner.ts';
import { defineTask, type TaskContext } from '../../jobs/task.ts';
import { AppError } from '../../runtime/errors.ts';
import { createLogger } from '../../runtime/log.ts';
import { prepareFor, taskRequest } from '../support/prepare.ts';

// A module has no global `jest`.
const { jest } = import.meta;
let workFolder: string;
beforeEach(async () => {
  workFolder = await mkdtemp(path.join(tmpdir(), 'sheetmill-trusted-'));
  jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask'] });
});
afterEach(async () => {
  expect(jest.getTimerCount()).toBe(0);
  jest.useRealTimers();
  expect(await readdir(workFolder)).toEqual([]);
  await rm(workFolder, { recursive: true });
});

type Work = (context: TaskContext<Record<string, unknown>>) => Promise<Record<string, unknown>>;

/** Starts a trusted task with a deadline of one second. */
async function start(work: Work, aborter = new AbortController()) {
  const events: TaskEvent[] = [];
  const started = Promise.withResolvers<void>();
  const task = defineTask({
    type: 'test',
    payload: z.record(z.string(), z.unknown()),
    resources: { cpuUnits: 0, memoryMb: 256 },
    trusted: true,
    run: (context) => {
      started.resolve();
      return work(context);
    },
  });
  const runner = new TrustedRunner(task, workFolder, createLogger('silent', {}));
  const ended = runner
    .run(prepareFor(taskRequest()), {
      deadlineMs: 1_000,
      signal: aborter.signal,
      onEvent: (event) => events.push(event),
    })
    .finally(() => runner.release());
  await started.promise;
  return { aborter, events, ended };
}

const stopping: Work = ({ signal }) =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
const ignoring: Work = () => new Promise(() => undefined);
const TIMEOUT = { kind: 'failed', error: { code: 'timeout', message: 'took longer than 1 s' }, retryable: true };

test('a task that completes returns its result and its events', async () => {
  const { ended, events } = await start(async ({ progress }) => {
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
});

test('a task has a folder for its output until its release', async () => {
  let folder = '';
  const { ended } = await start(async ({ output }) => {
    folder = path.dirname(output);
    return { exists: existsSync(folder) };
  });
  expect((await ended).outcome).toEqual({ kind: 'completed', result: { exists: true } });
  expect(existsSync(folder)).toBe(false);
});

test.each<[string, unknown, object]>([
  ['an AppError', new AppError('corrupt_file', 'no PDF'), { error: { code: 'corrupt_file' }, retryable: false }],
  ['another error', new Error('did not work'), { error: { code: 'task_failed', message: 'did not work' } }],
])('a task that throws %s fails', async (_name, error, outcome) => {
  const { ended } = await start(async () => {
    throw error;
  });
  expect((await ended).outcome).toMatchObject({ kind: 'failed', ...outcome });
});

test.each([
  ['stops', stopping],
  ['does not stop', ignoring],
])('a task that %s at its deadline has timed out', async (_name, work) => {
  const { ended } = await start(work);
  await jest.advanceTimersByTimeAsync(1_000 + ABORT_GRACE_MS);
  expect((await ended).outcome).toEqual(TIMEOUT);
});

test.each([
  ['that stops after', stopping, false],
  ['that does not stop after', ignoring, false],
  ['that starts after', ignoring, true],
])('a task %s an abort is aborted', async (_name, work, isAbortedBefore) => {
  const aborter = new AbortController();
  if (isAbortedBefore) aborter.abort();
  const { ended } = await start(work, aborter);
  aborter.abort();
  await jest.advanceTimersByTimeAsync(ABORT_GRACE_MS);
  expect((await ended).outcome).toEqual({ kind: 'aborted' });
});

test('a task that completes after an abort has completed', async () => {
  const { ended, aborter } = await start(
    ({ signal }) => new Promise((resolve) => signal.addEventListener('abort', () => resolve({ quick: true }))),
  );
  aborter.abort();
  expect((await ended).outcome).toEqual({ kind: 'completed', result: { quick: true } });
});

test('events of an abandoned task are dropped', async () => {
  let context: TaskContext<Record<string, unknown>> | undefined;
  const { ended, events, aborter } = await start((given) => {
    context = given;
    given.progress(1);
    return ignoring(given);
  });
  aborter.abort();
  await jest.advanceTimersByTimeAsync(ABORT_GRACE_MS);
  await ended;
  context?.progress(2);
  context?.log('info', 'still here');
  expect(events).toHaveLength(1);
});
