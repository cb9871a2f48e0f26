import { toRanges } from '../conversion/page-ranges.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import type { Outcome } from '../jobs/settle.ts';
import { nextMemoryClass } from '../jobs/shape.ts';
import type { Task } from '../jobs/task.ts';
import { childFor } from './attempt-outcome.ts';
import type { TaskRequest } from './run-task.ts';
import type { Lease, Prepare } from './sandbox/pool.ts';
import type { Death, Ran, RunOptions } from './sandbox/run.ts';

/**
 * Runs a task in its sandbox. When a step does not come back, or brings the sandbox down, the task goes on in a fresh one
 * and takes that step with another engine, or fails it alone. `mostMb` is the most memory that could be reserved here:
 * a step that outgrows it is tried with another engine, too. `prepare` makes the request of each run, with the steps in
 * `avoid`, to which each step that ended a sandbox is added.
 */
export async function runOn(
  sandbox: Pick<Lease, 'run'>,
  { prepare, avoid, reservation }: Pick<TaskRequest, 'avoid' | 'reservation'> & { prepare: Prepare },
  options: RunOptions,
  mostMb: number,
): Promise<Ran> {
  const began = performance.now();
  const spent = new Map<number | null, number>();
  const spentOnPage = (page: number | null) => spent.get(page) ?? options.spentOnPage?.(page) ?? 0;
  let peakMemoryMb: number | null = null;
  for (;;) {
    const ran = await sandbox.run(prepare, { ...options, spentOnPage, spentMs: performance.now() - began });
    if (ran.step !== null) spent.set(ran.step.page, ran.spentSeconds);
    if (ran.peakMemoryMb !== null) peakMemoryMb = Math.max(peakMemoryMb ?? 0, ran.peakMemoryMb);
    const { outcome, step } = ran;
    const known = avoid.some(({ page, engine }) => page === step?.page && engine === step.engine);
    if (outcome.kind !== 'died' || step === null || known || !mayGoOn(outcome)) return { ...ran, peakMemoryMb };
    avoid.push({ ...step, error: outcome.error });

    function mayGoOn({ how }: Death): boolean {
      if (how === 'outgrown') return !step?.last && (nextMemoryClass(reservation.memoryMb) ?? Infinity) > mostMb;
      return how !== 'killed' && how !== 'violated';
    }
  }
}

/**
 * What the end of a run means for its job. A page that killed the sandbox goes on as a part of its own, so that no other
 * page of its range waits for it or is done again. `left` are the pages that have no outcome.
 */
export function outcomeOf(
  { outcome, step, spentSeconds }: Ran,
  job: ClaimedJob,
  task: Task | undefined,
  left: readonly number[],
): Outcome {
  if (outcome.kind === 'aborted') return { kind: 'returned' };
  if (outcome.kind === 'split') {
    return { kind: 'split', children: outcome.parts.map((part) => childFor(job, part, 0)) };
  }
  if (outcome.kind !== 'died') return outcome;
  const { how, error } = outcome;
  const culprit = left.find((page) => page === step?.page);
  const others = left.filter((page) => page !== culprit);
  if ((how === 'outgrown' || how === 'killed') && culprit !== undefined && others.length > 0) {
    const grownMb = how === 'outgrown' ? (nextMemoryClass(job.memoryMb) ?? job.memoryMb) : job.memoryMb;
    const rest = childFor(job, { pages: toRanges(others), memoryMb: job.memoryMb }, 0);
    const alone = childFor(job, { pages: [[culprit, culprit]], memoryMb: grownMb }, spentSeconds);
    return { kind: 'split', children: [rest, alone], error };
  }
  // A conversion ends in the largest class at the latest; how often a client's task may run is for the client to say.
  if (how === 'outgrown') {
    const again = task?.internal ? { ...job.payload, spent_seconds: spentSeconds } : job.payload;
    return { kind: 'outgrown', error, spent: !task?.internal, payload: again };
  }
  const isFinal = how === 'overdue' || how === 'overfull' || how === 'violated';
  return { kind: 'failed', error, retryable: !isFinal };
}
