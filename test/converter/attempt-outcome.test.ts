import type { Part, Step } from '../../conversion/conversion-task.ts';
import { convert } from '../../conversion/tasks/convert.ts';
import { attemptOutcome } from '../../converter/attempt-outcome.ts';
import type { AbnormalEnd, RunResult } from '../../converter/task-runner.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Outcome } from '../../jobs/settle.ts';
import type { TaskDefinition } from '../../jobs/task.ts';

/** Processor time of the page at which the run ended. */
const SPENT = 4;
const payload = { upload_id: 'u', original: 1, path: 'a.pdf', media_type: 'application/pdf', dpi: 200 };
const job = { type: 'convert', payload, cpuUnits: 1, memoryMb: 256 } as unknown as ClaimedJob;

const step = (page: number | null): Step => ({ page, engine: 'pdfium', last: true });
const errorOf = (how: AbnormalEnd['how']) => ({ code: 'out_of_memory' as const, message: how });

function outcomeOf(
  outcome: RunResult['outcome'],
  at: Step | null,
  unsettledPages: number[],
  task: TaskDefinition = convert,
): Outcome {
  const result = { outcome, step: at, spentSeconds: SPENT, peakMemoryMb: 300 };
  return attemptOutcome(result, job, task, unsettledPages);
}

function abnormalOutcome(
  how: AbnormalEnd['how'],
  at: Step | null,
  unsettledPages: number[],
  task?: TaskDefinition,
): Outcome {
  return outcomeOf({ kind: 'died', how, error: errorOf(how) }, at, unsettledPages, task);
}

const child = (pages: [number, number][], memoryMb: number, spent = 0) => ({
  type: 'convert_range',
  payload: { ...payload, engine: null, pages, spent_seconds: spent },
  shape: { cpuUnits: 1, memoryMb },
});

test('a page that exceeds its memory becomes a separate job with more memory', () => {
  const rest: [number, number][] = [
    [3, 4],
    [7, 7],
  ];
  expect(abnormalOutcome('outgrown', step(2), [2, 3, 4, 7])).toEqual({
    kind: 'split',
    error: errorOf('outgrown'),
    children: [child(rest, 256), child([[2, 2]], 384, SPENT)],
  });
});

test('a page whose sandbox was killed externally becomes a separate job with the same memory', () => {
  expect(abnormalOutcome('killed', step(2), [2, 3])).toMatchObject({
    kind: 'split',
    children: [child([[3, 3]], 256), child([[2, 2]], 256, SPENT)],
  });
});

test.each([
  ['the last page', step(2), [2]],
  ['opening the file', step(null), []],
  ['a page that the job does not have', step(9), [2, 3]],
])('%s that exceeds its memory makes the job retry with more, without spending an attempt', (_name, at, pages) => {
  expect(abnormalOutcome('outgrown', at, pages)).toEqual({
    kind: 'outgrown',
    error: errorOf('outgrown'),
    spent: false,
    payload: { ...payload, spent_seconds: SPENT },
  });
});

test('the last page whose sandbox was killed externally is retried', () => {
  expect(abnormalOutcome('killed', step(2), [2])).toMatchObject({ kind: 'failed', retryable: true });
});

test('a task of a client that exceeds its memory spends an attempt', () => {
  const task = { ...convert, internal: false };
  expect(abnormalOutcome('outgrown', null, [], task)).toMatchObject({ kind: 'outgrown', spent: true, payload });
});

test.each(['overdue', 'overfull', 'violated'] as const)('a page that was %s is not retried', (how) => {
  expect(abnormalOutcome(how, step(2), [2])).toMatchObject({ kind: 'failed', retryable: false });
});

test('the children of a split convert the original of their parent', () => {
  const parts: Part[] = [
    { pages: [[2, 3]], memoryMb: 512 },
    { pages: [[4, 4]], memoryMb: 1024 },
  ];
  expect(outcomeOf({ kind: 'split', parts }, null, [2, 3, 4])).toEqual({
    kind: 'split',
    children: [child([[2, 3]], 512), { ...child([[4, 4]], 1024), shape: { cpuUnits: 0, memoryMb: 1024 } }],
  });
});
