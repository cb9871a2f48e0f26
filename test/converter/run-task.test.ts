import { z } from 'zod';
import type { ConversionContext, Part } from '../../conversion/conversion-task.ts';
import { runTask, type TaskEvent, type TaskRequest } from '../../converter/run-task.ts';
import type { Task } from '../../jobs/task.ts';
import { AppError } from '../../runtime/errors.ts';

const REQUEST: TaskRequest = {
  type: 'test',
  payload: {},
  attempt: 2,
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

/** Runs a task that does this. */
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

test('a task is given its payload as its schema reads it, its attempt, and paths for what it makes', async () => {
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

test('a task tells of its progress and its lines', async () => {
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

test('lines are cut, and data that is too large or cannot be stored is left out', async () => {
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
  const dropped = { dropped: 'too large, or not to be stored' };
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

test('nothing is heard of a task after its end', async () => {
  const late = Promise.withResolvers<() => void>();
  const { events } = await run(({ log }) => late.resolve(() => log('info', 'late')));
  (await late.promise)();
  expect(events).toEqual([]);
});

test('a task that splits its job gives the parts, whatever it returns', async () => {
  const parts: Part[] = [{ pages: [[1, 2]], memoryMb: 256 }];
  const { outcome } = await run(({ split }) => {
    split(parts);
    return { ignored: true };
  });
  expect(outcome).toEqual({ kind: 'split', parts });
});

describe('a task that snoozes', () => {
  test('ends at once with the seconds until it runs again', async () => {
    const { outcome, events } = await run(({ snooze, log }) => {
      snooze(60);
      log('info', 'goes on');
    });
    expect(outcome).toEqual({ kind: 'snoozed', seconds: 60 });
    expect(events).toEqual([]);
  });

  test('does so even if it catches every error', async () => {
    const { outcome } = await run(({ snooze }) => {
      try {
        snooze(1);
      } catch {
        return { ignored: true };
      }
    });
    expect(outcome).toEqual({ kind: 'snoozed', seconds: 1 });
  });

  test.each([0, 0.5, -1, 31_536_001, Number.NaN])('may not do so for %s s', async (seconds) => {
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
    [
      'members that JSON has not',
      { a: undefined, b: Number.POSITIVE_INFINITY, c: new Map([[1, 2]]) },
      { b: null, c: {} },
    ],
  ])('that is %s is kept as JSON', async (_name, given, kept) => {
    expect((await run(() => given)).outcome).toEqual({ kind: 'completed', result: kept });
  });

  test('may be as large as the limit, and not larger', async () => {
    const overhead = JSON.stringify({ text: '' }).length;
    const ofLength = (length: number) => ({ text: 'x'.repeat(length - overhead) });
    expect((await run(() => ofLength(256 * 1024))).outcome.kind).toBe('completed');
    expect((await run(() => ofLength(256 * 1024 + 1))).outcome).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message: 'its result has 262145 characters of JSON, more than 262144' },
      retryable: false,
    });
  });

  const circle: Record<string, unknown> = {};
  circle.self = circle;
  const deep = JSON.parse(`${'['.repeat(5_000)}${']'.repeat(5_000)}`);
  test.each([
    ['turns in a circle', circle, /^its result cannot be kept as JSON: /],
    ['has a big integer', { big: 1n }, /^its result cannot be kept as JSON: /],
    ['is nested too deep', { deep }, /^its result (holds|cannot)/],
    ['has a NUL', { text: 'a\0b' }, /^its result holds a NUL/],
    ['has half a surrogate pair', { list: ['\ud800'] }, /^its result holds a NUL or half a surrogate pair/],
    ['has a NUL in a name', { 'a\0b': 1 }, /^its result holds a NUL/],
  ])('that %s fails the job for good', async (_name, given, message) => {
    expect((await run(() => given)).outcome).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message: expect.stringMatching(message) },
      retryable: false,
    });
  });
});

describe('an error', () => {
  test('that is thrown fails the attempt with its message, to be retried', async () => {
    const outcome = await fail(new Error('the disk is full', { cause: new Error('inner') }));
    expect(outcome).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message: 'the disk is full' },
      retryable: true,
      detail: expect.stringMatching(/^Error: the disk is full\n.*; cause: Error: inner$/s),
    });
  });

  test.each([true, false])('of ours keeps its code and says whether to retry (%s)', async (retryable) => {
    expect(await fail(new AppError('corrupt_file', 'no PDF', { retryable }))).toMatchObject({
      error: { code: 'corrupt_file', message: 'no PDF' },
      retryable,
    });
  });

  test('of an internal task is told to nobody but the log', async () => {
    const outcome = await fail(new Error('secret'), { task: { internal: true } });
    expect(outcome).toMatchObject({ error: { code: 'internal' }, detail: expect.stringContaining('secret') });
    expect(JSON.stringify({ ...outcome, detail: '' })).not.toContain('secret');
  });

  test('of the system does not name our paths', async () => {
    const { open } = await import('node:fs/promises');
    const { outcome } = await run(() => open('/nowhere/secret.png'));
    expect(outcome).toMatchObject({ error: { code: 'task_failed', message: 'the system refused open: ENOENT' } });
  });

  test.each([
    ['a text', 'just words', 'just words'],
    ['nothing', undefined, 'undefined'],
    ['an error without a message', new Error(), 'the task failed without a message'],
    ['what has no text', Object.create(null), 'the task failed without a message'],
    ['an error whose message is a number', Object.assign(new Error(), { message: 5 }), '5'],
  ])('may be %s', async (_name, thrown, message) => {
    expect(await fail(thrown)).toMatchObject({
      kind: 'failed',
      error: { code: 'task_failed', message },
      retryable: true,
    });
  });

  test.each([
    ['of its own', (text: string) => new Error(text)],
    ['of ours', (text: string) => new AppError('task_failed', text)],
  ])('%s has a message that can be stored: not too long, without a NUL or half a character', async (_name, make) => {
    const outcome = (await fail(make(`a\0b${'😀'.repeat(2_000)}`))) as { error: { message: string } };
    expect(outcome.error.message).toHaveLength(2_000);
    expect(outcome.error.message).toMatch(/^a\ufffdb😀+\ufffd$/u);
  });
});

test('a payload that does not fit fails the attempt, and says where', async () => {
  const payload = z.strictObject({ rounds: z.int(), file: z.strictObject({ name: z.string() }) });
  const { outcome, events } = await run(({ log }) => log('info', 'not run'), {
    task: { payload } as Partial<Task>,
    payload: { rounds: 'many', file: { name: 1 } },
  });
  // Another converter's task may be a newer one.
  expect(outcome).toMatchObject({ kind: 'failed', error: { code: 'task_failed' }, retryable: true });
  expect(outcome.kind === 'failed' && outcome.error.message).toMatch(
    /^its payload does not fit the task: rounds: .*; file: name: /,
  );
  expect(events).toEqual([]);
});

test('a job type that the converter does not know fails the attempt: another may know it', async () => {
  const outcome = await runTask(undefined, REQUEST, new AbortController().signal, () => undefined);
  expect(outcome).toMatchObject({
    error: { code: 'task_failed', message: 'this converter knows no job type test' },
    retryable: true,
  });
});
