import type { Task } from '../jobs/task.ts';
import { runTask, type TaskRequest } from './run-task.ts';
import { judge, type Ran, type RunOptions, YIELD_MS } from './sandbox/run.ts';

/**
 * Runs a trusted task in this process. It is told to end like one in a sandbox, but cannot be killed: one that does not
 * heed its signal is left behind, and what it still tells is not heard.
 */
export async function runTrusted(
  task: Task,
  request: TaskRequest,
  { deadlineMs, signal, onEvent }: RunOptions,
): Promise<Ran> {
  const timer = new AbortController();
  const deadline = setTimeout(() => timer.abort(new Error('the time is up')), deadlineMs);
  const both = AbortSignal.any([signal, timer.signal]);
  const abandoned = Promise.withResolvers<{
    kind: 'failed';
    error: { code: 'internal'; message: string };
    retryable: true;
  }>();
  let abandoning: NodeJS.Timeout | undefined;
  const onAbort = () => {
    const error = { code: 'internal' as const, message: 'did not end when it was told to' };
    abandoning = setTimeout(() => abandoned.resolve({ kind: 'failed', error, retryable: true }), YIELD_MS);
  };
  both.addEventListener('abort', onAbort);
  if (both.aborted) onAbort();
  let over = false;
  const running = runTask(task, request, both, (event) => over || onEvent(event));
  const outcome = await Promise.race([running, abandoned.promise]);
  over = true;
  clearTimeout(deadline);
  clearTimeout(abandoning);
  both.removeEventListener('abort', onAbort);
  return {
    outcome: judge(outcome, { timedOut: timer.signal.aborted, signal, deadlineMs }),
    step: null,
    spentSeconds: 0,
    peakMemoryMb: null,
  };
}
