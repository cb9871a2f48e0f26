import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Engine, Step } from '../../conversion/conversion-task.ts';
import { runWithRecovery } from '../../converter/continue-after-crash.ts';
import { PrivateFolder } from '../../converter/files/private-folder.ts';
import type { TaskRequest } from '../../converter/run-task.ts';
import type { AbnormalEnd, RunResult } from '../../converter/task-runner.ts';
import { taskRequest } from '../support/prepare.ts';

let work: string;
let folder: PrivateFolder;
beforeAll(async () => {
  work = await mkdtemp(path.join(tmpdir(), 'sheetmill-recovery-'));
  folder = new PrivateFolder(work);
});
afterAll(() => rm(work, { recursive: true }));

const COMPLETED: RunResult = {
  outcome: { kind: 'completed', result: {} },
  step: null,
  spentSeconds: 0,
  peakMemoryMb: 200,
};
const step = (page: number, engine: Engine, last = false): Step => ({ page, engine, last });

const abnormalEnd = (how: AbnormalEnd['how']): AbnormalEnd => ({
  kind: 'died',
  how,
  error: { code: how === 'overdue' ? 'timeout' : 'out_of_memory', message: how },
});

const ended = (how: AbnormalEnd['how'], at: Step | null): RunResult => ({
  outcome: abnormalEnd(how),
  step: at,
  spentSeconds: 4,
  peakMemoryMb: 300,
});

/** Runs a task with these results, one after the other. `failedSteps` has the avoided steps of each run. */
async function run(results: RunResult[], memory = { reservedMb: 256, maxMb: 1024 }) {
  const left = [...results];
  const failedSteps: TaskRequest['failedSteps'][] = [];
  const runner = {
    async run(prepare: (own: PrivateFolder) => Promise<TaskRequest>): Promise<RunResult> {
      failedSteps.push((await prepare(folder)).failedSteps);
      const next = left.shift();
      if (next === undefined) throw new Error('too many runs');
      return next;
    },
  };
  const result = await runWithRecovery(
    runner,
    async (own, avoided) => ({ ...taskRequest(), failedSteps: avoided, outputFolder: own.output }),
    { deadlineMs: 1000, signal: new AbortController().signal, onEvent: () => undefined },
    memory,
  );
  return { result, failedSteps, left };
}

test.each(['overdue', 'crashed'] as const)('after a step was %s, the next run avoids its engine', async (how) => {
  const failed = step(3, 'pdf-to-img');
  const { result, failedSteps } = await run([ended(how, failed), COMPLETED]);
  expect(result).toEqual({ ...COMPLETED, peakMemoryMb: 300 });
  expect(failedSteps).toEqual([[], [{ ...failed, error: abnormalEnd(how).error }]]);
});

test('a step that fails again with the same engine ends the task', async () => {
  const failed = step(3, 'pdfium', true);
  const { result, left } = await run([ended('crashed', failed), ended('crashed', failed), COMPLETED]);
  expect(result.outcome).toEqual(abnormalEnd('crashed'));
  expect(left).toEqual([COMPLETED]);
});

test('a step that exceeds its memory ends the task while a larger reservation is possible', async () => {
  const { result } = await run([ended('outgrown', step(3, 'pdf-to-img')), COMPLETED]);
  expect(result.outcome).toEqual(abnormalEnd('outgrown'));
});

test('a step that exceeds the largest reservation is tried with another engine, if there is one', async () => {
  const memory = { reservedMb: 1024, maxMb: 1100 };
  expect((await run([ended('outgrown', step(3, 'pdf-to-img')), COMPLETED], memory)).result.outcome.kind).toBe(
    'completed',
  );
  expect((await run([ended('outgrown', step(3, 'pdfium', true)), COMPLETED], memory)).result.outcome).toEqual(
    abnormalEnd('outgrown'),
  );
});

test.each([
  ['was killed externally', 'killed', step(3, 'pdf-to-img')],
  ['sent invalid data', 'violated', step(3, 'pdf-to-img')],
  ['crashed without a step', 'crashed', null],
] as const)('a task whose sandbox %s is not continued', async (_name, how, at) => {
  expect((await run([ended(how, at), COMPLETED])).result.outcome).toEqual(abnormalEnd(how));
});
