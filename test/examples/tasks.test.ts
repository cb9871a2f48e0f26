import { z } from 'zod';
import examples from '../../examples/tasks/index.ts';
import type { Task } from '../../jobs/task.ts';
import { type TaskReports, taskContext } from '../support/task-context.ts';

const SIMULATED = [
  'email',
  'send_email',
  'data_export',
  'data_fetch',
  'data_processing',
  'report_generation',
  'generate_report',
];
const tasks = new Map(examples.map((task) => [task.type, task as unknown as Task]));

function named(type: string): Task {
  const task = tasks.get(type);
  if (task === undefined) throw new Error(`no task ${type}`);
  return task;
}

function contextOf(type: string, payload: unknown, attempt = 1, signal = new AbortController().signal) {
  return taskContext(named(type).payload.parse(payload), '/nowhere', { attempt, signal });
}

function run(type: string, payload: unknown, attempt?: number): Promise<Record<string, unknown>> {
  return named(type).run(contextOf(type, payload, attempt));
}

/** Runs it until an abort after `milliseconds`; gives what it threw. */
async function aborted(type: string, payload: unknown, milliseconds: number) {
  const controller = new AbortController();
  const reason = new Error('cancelled');
  const running = named(type).run(contextOf(type, payload, 1, controller.signal));
  setTimeout(() => controller.abort(reason), milliseconds);
  const error = await running.then(
    () => 'no error',
    (thrown: unknown) => thrown,
  );
  return { error, reason };
}

test('every type has one task, and its payload has a JSON Schema', () => {
  expect(tasks.size).toBe(examples.length);
  for (const task of examples) expect(z.toJSONSchema(task.payload)).toMatchObject({ type: 'object' });
});

test('tasks that use much CPU run in the sandbox, and only noop reserves no CPU', () => {
  const sandboxed = examples.filter((task) => !task.trusted).map((task) => task.type);
  expect(sandboxed).toEqual(['prime', 'fibonacci', 'matrix']);
  expect(examples.filter((task) => task.resources.cpuUnits === 0).map((task) => task.type)).toEqual(['noop']);
});

test.each([
  [1, 2],
  [2, 3],
  [3, 5],
  [6, 13],
  [1_000, 7_919],
  [10_000, 104_729],
  [200_000, 2_750_159],
])('prime number %i is %i', async (input, output) => {
  expect(await run('prime', { input })).toEqual({ output });
});

test.each([
  [0, '0'],
  [1, '1'],
  [10, '55'],
  [20, '6765'],
])('Fibonacci number %i is %s, recursively too', async (input, output) => {
  expect(await run('fibonacci', { input })).toEqual({ output });
  expect(await run('fibonacci', { input, recursive: true })).toEqual({ output });
});

test('large Fibonacci numbers are exact', async () => {
  expect(await run('fibonacci', { input: 100 })).toEqual({ output: '354224848179261915075' });
  const { output } = await run('fibonacci', { input: 100_000 });
  expect(output).toHaveLength(20_899);
  expect(output).toMatch(/^2597406934.*3428746875$/);
});

test('matrices of one size give one checksum', async () => {
  // [0 1; 2 3] x [1 2; 3 4] = [3 4; 11 16]
  expect(await run('matrix', { size: 2 })).toEqual({ size: 2, checksum: ((3 * 31 + 4) * 31 + 11) * 31 + 16 });
  expect(await run('matrix', { size: 100 })).toEqual(await run('matrix', { size: 100 }));
});

test('text is reversed by code points', async () => {
  expect(await run('reverse', { input: 'añ🎈b' })).toEqual({ output: 'b🎈ña' });
  expect(await run('reverse', { input: '' })).toEqual({ output: '' });
});

test('sleep sleeps for the requested time', async () => {
  const started = performance.now();
  expect(await run('sleep', { input: 0.2 })).toEqual({ slept_seconds: 0.2 });
  expect(performance.now() - started).toBeGreaterThan(190);
});

test.each([
  ['sleep', { input: 3600 }],
  ['reverse', { input: 'abc', delay_seconds: 3600 }],
  ['data_processing', undefined],
])('%s ends with the reason of an abort', async (type, payload) => {
  const { error, reason } = await aborted(type, payload, 20);
  expect(error).toBe(reason);
});

test('fail fails as many attempts as asked, then succeeds', async () => {
  await expect(run('fail', { times: 2 }, 1)).rejects.toThrow('attempt 1 of this job fails, as asked');
  await expect(run('fail', { times: 2 }, 2)).rejects.toThrow('attempt 2 of this job fails, as asked');
  expect(await run('fail', { times: 2 }, 3)).toEqual({ attempts: 3 });
  expect(await run('fail', { times: 0 })).toEqual({ attempts: 1 });
});

test.each(SIMULATED)('%s accepts any payload or none, logs, and reports its progress', async (type) => {
  for (const payload of [undefined, { to: 'somebody', parts: [1, 2] }]) {
    const context = contextOf(type, payload);
    expect(await named(type).run(context)).toMatchObject({ simulated: true });
    const { logs, progress }: TaskReports = context.reports;
    expect(logs.map(({ level }) => level)).toEqual(['info', 'info']);
    expect(progress.at(-1)).toEqual([4, 4]);
  }
});

test('noop gives nothing', async () => {
  expect(await run('noop', undefined)).toEqual({});
});

test.each([
  ['sleep', { input: 3601 }, 'from 0 to 3600'],
  ['sleep', { input: -1 }, 'from 0 to 3600'],
  ['sleep', { input: '1' }, 'from 0 to 3600'],
  ['prime', { input: 0 }, 'from 1 to 200000'],
  ['prime', { input: 200_001 }, 'from 1 to 200000'],
  ['prime', { input: 1.5 }, 'from 1 to 200000'],
  ['prime', { input: 0.5 }, 'from 1 to 200000'],
  ['prime', {}, 'from 1 to 200000'],
  ['fibonacci', { input: -1 }, 'from 0 to 100000'],
  ['fibonacci', { input: 100_001 }, 'from 0 to 100000'],
  ['fibonacci', { input: 46, recursive: true }, 'from 0 to 45 if recursive'],
  ['matrix', { size: 0 }, 'from 1 to 1000'],
  ['matrix', { size: 1001 }, 'from 1 to 1000'],
  ['reverse', { input: 'x'.repeat(100_001) }, 'from 0 to 100000'],
  ['reverse', { input: '', delay_seconds: 3601 }, 'from 0 to 3600'],
  ['fail', { times: 101 }, 'from 0 to 100'],
])('%s refuses what is out of bounds, and names them (%j)', (type, payload, bounds) => {
  const { error } = named(type).payload.safeParse(payload);
  expect(error?.issues).toEqual([expect.objectContaining({ message: expect.stringContaining(bounds) })]);
});

test('a bound itself is within', () => {
  for (const [type, payload] of [
    ['sleep', { input: 3600 }],
    ['prime', { input: 200_000 }],
    ['fibonacci', { input: 45, recursive: true }],
    ['fibonacci', { input: 46 }],
    ['reverse', { input: 'x'.repeat(100_000) }],
  ] as const) {
    expect(named(type).payload.safeParse(payload).success).toBe(true);
  }
});

test('unknown fields are refused', () => {
  expect(named('prime').payload.safeParse({ input: 1, verbose: true }).success).toBe(false);
});

test('collect gathers what became of the dependencies', async () => {
  const one = { id: 'a', type: 'noop', status: 'completed' as const, result: { n: 1 }, error: null, truncated: false };
  const context = { ...contextOf('collect', {}), dependencies: [one] };
  expect(await named('collect').run(context)).toEqual({
    dependencies: [{ id: 'a', status: 'completed', result: { n: 1 } }],
  });
});
