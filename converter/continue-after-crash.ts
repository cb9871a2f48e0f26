import type { Step } from '../conversion/conversion-task.ts';
import { nextMemoryClass } from '../jobs/shape.ts';
import type { PrivateFolder } from './files/private-folder.ts';
import type { TaskRequest } from './run-task.ts';
import type { AbnormalEnd, RunOptions, RunResult, TaskRunner } from './task-runner.ts';

/** Makes the request of a run that must not repeat `failedSteps`. */
export type PrepareRetry = (folder: PrivateFolder, failedSteps: TaskRequest['failedSteps']) => Promise<TaskRequest>;

/**
 * Runs a task. When a step ends the sandbox abnormally, the task continues in a fresh sandbox and does that step with
 * another engine, or fails it alone. `maxMb` is the largest reservation possible here: a step that exceeds it is tried
 * with another engine too.
 */
export async function runWithRecovery(
  runner: Pick<TaskRunner, 'run'>,
  prepare: PrepareRetry,
  options: RunOptions,
  memory: { reservedMb: number; maxMb: number },
): Promise<RunResult> {
  const startedAt = performance.now();
  const failedSteps: TaskRequest['failedSteps'] = [];
  const spent = new Map<number | null, number>();
  const spentOnPage = (page: number | null) => spent.get(page) ?? options.spentOnPage?.(page) ?? 0;
  let peakMemoryMb: number | null = null;
  for (;;) {
    const spentMs = performance.now() - startedAt;
    const result = await runner.run((folder) => prepare(folder, [...failedSteps]), {
      ...options,
      spentOnPage,
      spentMs,
    });
    const { outcome, step } = result;
    if (step !== null) spent.set(step.page, result.spentSeconds);
    if (result.peakMemoryMb !== null) peakMemoryMb = Math.max(peakMemoryMb ?? 0, result.peakMemoryMb);
    if (outcome.kind !== 'died' || step === null || isIn(failedSteps, step) || !canContinue(outcome, step, memory)) {
      return { ...result, peakMemoryMb };
    }
    failedSteps.push({ ...step, error: outcome.error });
  }
}

function isIn(failedSteps: TaskRequest['failedSteps'], step: Step): boolean {
  return failedSteps.some(({ page, engine }) => page === step.page && engine === step.engine);
}

function canContinue(
  { how }: AbnormalEnd,
  step: Step,
  { reservedMb, maxMb }: { reservedMb: number; maxMb: number },
): boolean {
  if (how === 'outgrown') return !step.last && (nextMemoryClass(reservedMb) ?? Infinity) > maxMb;
  return how !== 'killed' && how !== 'violated';
}
