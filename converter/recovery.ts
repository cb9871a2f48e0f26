import { nextMemoryClass } from '../jobs/shape.ts';
import type { Step } from '../jobs/task.ts';
import type { PrivateFolder } from './files/private-folder.ts';
import type { TaskRequest } from './run-task.ts';
import type { AbnormalEnd, RunOptions, RunResult, TaskRunner } from './task-runner.ts';

/** Makes the request of a run that must not repeat the steps in `avoid`. */
export type PrepareRetry = (folder: PrivateFolder, avoid: TaskRequest['avoid']) => Promise<TaskRequest>;

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
  const avoid: TaskRequest['avoid'] = [];
  const spent = new Map<number | null, number>();
  const spentOnPage = (page: number | null) => spent.get(page) ?? options.spentOnPage?.(page) ?? 0;
  let peakMemoryMb: number | null = null;
  for (;;) {
    const spentMs = performance.now() - startedAt;
    const result = await runner.run((folder) => prepare(folder, [...avoid]), { ...options, spentOnPage, spentMs });
    const { outcome, step } = result;
    if (step !== null) spent.set(step.page, result.spentSeconds);
    if (result.peakMemoryMb !== null) peakMemoryMb = Math.max(peakMemoryMb ?? 0, result.peakMemoryMb);
    if (outcome.kind !== 'died' || step === null || isIn(avoid, step) || !canContinue(outcome, step, memory)) {
      return { ...result, peakMemoryMb };
    }
    avoid.push({ ...step, error: outcome.error });
  }
}

function isIn(avoid: TaskRequest['avoid'], step: Step): boolean {
  return avoid.some(({ page, engine }) => page === step.page && engine === step.engine);
}

function canContinue(
  { how }: AbnormalEnd,
  step: Step,
  { reservedMb, maxMb }: { reservedMb: number; maxMb: number },
): boolean {
  if (how === 'outgrown') return !step.last && (nextMemoryClass(reservedMb) ?? Infinity) > maxMb;
  return how !== 'killed' && how !== 'violated';
}
