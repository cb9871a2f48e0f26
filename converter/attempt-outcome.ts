import { conversionShape } from '../conversion/conversion-shape.ts';
import type { Part } from '../conversion/conversion-task.ts';
import { pagesIn, toRanges } from '../conversion/page-selection.ts';
import { convertRange, rangeOf } from '../conversion/tasks/convert-range.ts';
import type { Child } from '../jobs/children.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import type { Outcome } from '../jobs/settle.ts';
import { nextMemoryClass } from '../jobs/shape.ts';
import type { TaskDefinition } from '../jobs/task.ts';
import type { AbnormalEnd, RunResult } from './task-runner.ts';

/** The outcome of a job whose task ended like this. `unsettledPages` are its pages without an outcome. */
export function attemptOutcome(
  result: RunResult,
  job: ClaimedJob,
  task: TaskDefinition,
  unsettledPages: readonly number[],
): Outcome {
  const { outcome } = result;
  if (outcome.kind === 'aborted') return { kind: 'returned' };
  if (outcome.kind === 'split') {
    return { kind: 'split', children: outcome.parts.map((part) => childFor(job, part, 0)) };
  }
  if (outcome.kind !== 'died') return outcome;
  return splitOffPage(outcome, result, job, unsettledPages) ?? failedOutcome(outcome, result, job, task);
}

/**
 * A page that ended the sandbox becomes a separate job, so that the other pages of its range neither wait for it nor are
 * converted again. Undefined when no page is to blame, or no other page is left.
 */
function splitOffPage(
  { how, error }: AbnormalEnd,
  { step, spentSeconds }: RunResult,
  job: ClaimedJob,
  unsettledPages: readonly number[],
): Outcome | undefined {
  if (how !== 'outgrown' && how !== 'killed') return undefined;
  const culprit = unsettledPages.find((page) => page === step?.page);
  const others = unsettledPages.filter((page) => page !== culprit);
  if (culprit === undefined || others.length === 0) return undefined;
  const { memoryMb } = job;
  const grownMb = how === 'outgrown' ? (nextMemoryClass(memoryMb) ?? memoryMb) : memoryMb;
  const rest = childFor(job, { pages: toRanges(others), memoryMb }, 0);
  const alone = childFor(job, { pages: [[culprit, culprit]], memoryMb: grownMb }, spentSeconds);
  return { kind: 'split', children: [rest, alone], error };
}

function failedOutcome(
  { how, error }: AbnormalEnd,
  { spentSeconds }: RunResult,
  job: ClaimedJob,
  task: TaskDefinition,
): Outcome {
  if (how === 'outgrown') {
    // A conversion stops growing at the largest class; the retries of other tasks are limited by their clients.
    const payload = task.internal ? { ...job.payload, spent_seconds: spentSeconds } : job.payload;
    return { kind: 'outgrown', error, spent: !task.internal, payload };
  }
  const isFinal = how === 'overdue' || how === 'overfull' || how === 'violated';
  return { kind: 'failed', error, retryable: !isFinal };
}

/** A child that converts some pages. A sandbox only names pages and memory: everything else comes from the job. */
function childFor(job: ClaimedJob, { pages, memoryMb }: Part, spentSeconds: number): Child {
  const payload = rangeOf(job.payload, pagesIn(pages));
  return {
    type: convertRange.type,
    payload: { ...payload, spent_seconds: spentSeconds },
    shape: conversionShape(memoryMb),
  };
}
