import { z } from 'zod';
import type { ConversionContext, Part } from '../../conversion/conversion-task.ts';
import { runTask, type TaskEvent, type TaskRequest } from '../../converter/run-task.ts';
import type { Task } from '../../jobs/task.ts';
import { AppError } from '../../runtime/errors.ts';
import { taskRequest } from '../support/prepare.ts';

const REQUEST: TaskRequest = { ...taskRequest({ attempt: 2 }), outputFolder: '/out' };

/** Runs a task. */
async function run(
  work: (context: ConversionContext<Record<string, unknown>>) => unknown,
  { task = {}, payload = {} }: { task?: Partial<Task>; payload?: Record<string, unknown> } = {},
) {
  const events: TaskEvent[] = [];
  const defined = {
    type: 'test',
    payload: z.record(z.string(), z.unknown()),
    resources: { cpuUnits: 1, memoryMb: 256 },
    run: async (context: never) => work(context),
    ...task,
  } as Task;
  const outcome = await runTask(defined, { ...REQUEST, payload }, new AbortController().signal, (event) => {
    events.push(event);
  });
  return { outcome, events };
}

const fail = (thrown: unknown, options?: Parameters<typeof run>[1]) =>
  run(() => {
    throw thrown;
  }, options).then(({ outcome }) => outcome);

test('a task gets its parsed payload, its attempt, and paths for its output', async () => {
  const task = { payload: z.strictObject({ rounds: z.int().default(3) }) } as Partial<Task>;
  const { outcome } = await run(
    ({ payload, attempt, output, pageOutput }) => ({ payload, attempt, paths: [output, pageOutput(7)] }),
    { task },
  );
  expect(outcome).toEqual({
    kind: 'completed',
    result: { payload: { rounds: 3 }, attempt: 2, paths: ['/out/file', '/out/7.png'] },
  });
});

test('a task reports progress and log lines', async () => {
  const { events } = await run(({ progress, log }) => {
    progress(1);
    progress(2, 3);
    log('warn', 'a line', { page: 1 });
    log('info', 5 as never);
  });
  expect(events).toEqual([
    { kind: 'progress', progress: { done: 1, total: null } },
    { kind: 'progress', progress: { done: 2, total: 3 } },
    { kind: 'log', level: 'warn', message: 'a line', data: { page: 1 } },
    { kind: 'log', level: 'info', message: '5', data: undefined },
  ]);
});

test('lines are cut, and data that is too large or not storable is dropped', async () => {
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  const { events } = await run(({ log, progress }) => {
    log('info', 'x'.repeat(20_000), { small: true });
    log('debug' as never, 'a\0b\ud800', { text: 'y'.repeat(32 * 1024) });
    log('warn', 'poison', { text: '\0' });
    log('warn', 'circle', circle);
    log('warn', 'a list', [1] as never);
    progress(Number.NaN, 3);
    progress(1, Number.POSITIVE_INFINITY);
    for (let count = 0; count < 2_000; count++) log('info', 'again');
  });
  const dropped = { dropped: 'too large or not storable' };
  const lines = events.flatMap((event) => (event.kind === 'log' ? [[event.level, event.message, event.data]] : []));
  expect(lines.slice(0, 5)).toEqual([
    ['info', 'x'.repeat(10_000), { small: true }],
    ['info', 'a\ufffdb\ufffd', dropped],
    ['warn', 'poison', dropped],
    ['warn', 'circle', dropped],
    ['warn', 'a list', { output: [1] }],
  ]);
  expect(lines).toHaveLength(1_000);
  expect(events.filter(({ kind }) => kind === 'progress')).toEqual([
    { kind: 'progress', progress: { done: 1, total: null } },
  ]);
});

test('reports after the end of a task are dropped', async () => {
  const late = Promise.withResolvers<() => void>();
  const { events } = await run(({ log }) => late.resolve(() => log('info', 'late')));
  (await late.promise)();
  expect(events).toEqual([]);
});

test('a task that splits its job returns the parts, and not its result', async () => {
  const parts: Part[] = [{ pages: [[1, 2]], memoryMb: 256 }];
  const { outcome } = await run(({ split }) => {
    split(parts);
    return { ignored: true };
  });
  expect(outcome).toEqual({ kind: 'split', parts });
});

describe('a task that snoozes', () => {
  test('ends at once with its delay', async () => {
    const { outcome, events } = await run(({ snooze, log }) => {
      snooze(60);
      log('info', 'continues');
    });
    expect(outcome).toEqual({ kind: 'snoozed', seconds: 60 });
    expect(events).toEqual([]);
  });

  test('snoozes even if it catches every error', async () => {
    const { outcome } = await run(({ snooze }) => {
      try {
        snooze(1);
      } catch {
        return { ignored: true };
      }
    });
    expect(outcome).toEqual({ kind: 'snoozed', seconds: 1 });
  });

  test.each([0, 0.5, -1, 31_536_001, Number.NaN])('fails with %s s', async (seconds) => {
    const { outcome } = await run(({ snooze }) => snooze(seconds));
    const message = `snooze: must be between 1 and 31536000 seconds (got ${seconds})`;
    expect(outcome).toMatchObject({ kind: 'failed', error: { code: 'task_failed', message }, retryable: false });
  });
});

test.each([
  [90, 90],
  [0, 0],
  [-1, 0],
  [1e12, 31_536_000],
])('an error may ask for a retry after %s s', async (retryAfterSeconds, given) => {
  const error = new AppError('task_failed', 'the receiver is busy', { retryAfterSeconds });
  expect(await fail(error)).toMatchObject({ kind: 'failed', retryable: true, retryAfterSeconds: given });
});

describe('a result', () => {
  test.each([
    ['nothing', undefined, {}],
    ['null', null, {}],
    ['an object', { a: [1, { b: null }] }, { a: [1, { b: null }] }],
    ['a list', [1, 2], { output: [1, 2] }],
    ['a text', 'done', { output: 'done' }],
    ['a number', 0, { output: 0 }],
    ['no number', Number.NaN, { output: null }],
    ['a function', () => 1, { output: null }],
    ['a date', new Date(0), { output: '1970-01-01T00:00:00.000Z' }],
    ['values without JSON', { a: undefined, b: Number.POSITIVE_INFINITY, c: new Map([[1, 2]]) }, { b: null, c: {} }],
  ])('that is %s is stored as JSON', async (_name, given, kept) => {
    expect((await run(() => given)).outcome).toEqual({ kind: 'completed', result: kept });
  });

  test('may be as large as the limit', async () => {
    const overhead = JSON.stringify({ text: '' }).length;
    const ofLength = (length: number) => ({ text: 'x'.repeat(length - overhead) });
    expect((await run(() => ofLength(256 * 1024))).outcome.kind).toBe('completed');
    expect((await run(() => ofLength(256 * 1024 + 1))).outcome).toMatchObject({
      kind: 'failed',
      error: {
        code: 'task_failed',
        message: 'invalid result: must have at most 262144 characters of JSON (got 262145)',
      },
      retryable: false,
    });
  });

  const circle: Record<string, unknown> = {};
  circle.self = circle;
  const deep = JSON.parse(`${'['.repeat(5_000)}${']'.repeat(5_000)}`);
  test.each([
    ['is cyclic', circle, /^invalid result: not JSON: /],
    ['has a BigInt', { big: 1n }, /^invalid result: not JSON: /],
    ['is nested too deep', { deep }, /^invalid result: /],
    ['has a NUL', { text: 'a\0b' }, /^invalid result: contains NUL/],
    ['has half a surrogate pair', { list: ['\ud800'] }, /^invalid result: contains NUL or a lone surrogate/],
    ['has a NUL in a name', { 'a\0b': 1 }, /^invalid result: contains NUL/],
  ])('that %s fails the job permanently', async (_name, given, message) => {
    expect((await run(() => given)).outcome).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message: expect.stringMatching(message) },
      retryable: false,
    });
  });
});

describe('an error', () => {
  test('that is thrown fails the attempt with its message, and is retried', async () => {
    const outcome = await fail(new Error('the disk is full', { cause: new Error('inner') }));
    expect(outcome).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message: 'the disk is full' },
      retryable: true,
      detail: expect.stringMatching(/^Error: the disk is full\n.*; cause: Error: inner$/s),
    });
  });

  test.each([true, false])('keeps its code and its retryability (%s) if it is an AppError', async (retryable) => {
    expect(await fail(new AppError('corrupt_file', 'no PDF', { retryable }))).toMatchObject({
      error: { code: 'corrupt_file', message: 'no PDF' },
      retryable,
    });
  });

  test('is only logged if the task is internal', async () => {
    const outcome = await fail(new Error('secret'), { task: { internal: true } });
    expect(outcome).toMatchObject({ error: { code: 'internal' }, detail: expect.stringContaining('secret') });
    expect(JSON.stringify({ ...outcome, detail: '' })).not.toContain('secret');
  });

  test('names no path if it comes from the system', async () => {
    const { open } = await import('node:fs/promises');
    const { outcome } = await run(() => open('/nowhere/secret.png'));
    expect(outcome).toMatchObject({ error: { code: 'task_failed', message: 'system call open failed: ENOENT' } });
  });

  test.each([
    ['a text', 'just words', 'just words'],
    ['nothing', undefined, 'undefined'],
    ['an error without a message', new Error(), 'the task failed without a message'],
    ['a value without text', Object.create(null), 'the task failed without a message'],
    ['an error whose message is a number', Object.assign(new Error(), { message: 5 }), '5'],
  ])('may be any thrown value: %s', async (_name, thrown, message) => {
    expect(await fail(thrown)).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message },
      retryable: true,
    });
  });

  test.each([
    ['thrown by a task', (text: string) => new Error(text)],
    ['with a code', (text: string) => new AppError('task_failed', text)],
  ])('%s has a storable message: limited, without NUL or lone surrogates', async (_name, make) => {
    const outcome = (await fail(make(`a\0b${'😀'.repeat(2_000)}`))) as { error: { message: string } };
    expect(outcome.error.message).toHaveLength(2_000);
    expect(outcome.error.message).toMatch(/^a\ufffdb😀+\ufffd$/u);
  });
});

test('an invalid payload fails the attempt, and names the fields', async () => {
  const payload = z.strictObject({ rounds: z.int(), file: z.strictObject({ name: z.string() }) });
  const { outcome, events } = await run(({ log }) => log('info', 'not run'), {
    task: { payload } as Partial<Task>,
    payload: { rounds: 'many', file: { name: 1 } },
  });
  // Another converter may have a newer version of the task.
  expect(outcome).toMatchObject({ kind: 'failed', error: { code: 'task_failed' }, retryable: true });
  expect(outcome.kind === 'failed' && outcome.error.message).toMatch(/^invalid payload: rounds: .*; file: name: /);
  expect(events).toEqual([]);
});

test('an unknown job type fails the attempt, and is retried', async () => {
  const outcome = await runTask(undefined, REQUEST, new AbortController().signal, () => undefined);
  expect(outcome).toMatchObject({
    error: { code: 'task_failed', message: 'this converter does not know the job type test' },
    retryable: true,
  });
});
