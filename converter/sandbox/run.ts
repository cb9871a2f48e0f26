import type { ChildProcess } from 'node:child_process';
import type { PublicError } from '../../errors.ts';
import { LARGE_MB } from '../../jobs/shape.ts';
import type { Logger } from '../../log.ts';
import type { Step } from '../../tasks/task.ts';
import type { PrivateFolder } from '../files/private-folder.ts';
import { sandboxDeaths } from '../metrics.ts';
import type { TaskEvent, TaskOutcome, TaskRequest } from '../run-task.ts';
import { capMemory, lowerPriority, watchMemory } from './limits.ts';
import type { SandboxMessage, SandboxOrder } from './protocol.ts';
import { type SpentOnPage, StepTimeout } from './step-timeout.ts';

/** How a run ended. `aborted` only after the converter aborted it; `died` with its sandbox, which took nothing along. */
export type RunOutcome = TaskOutcome | { kind: 'aborted' } | Death;

export interface Death {
  kind: 'died';
  /** It met its cap; a step took too long; it crashed by itself; or somebody else killed it. */
  how: 'outgrown' | 'overdue' | 'crashed' | 'killed';
  error: PublicError;
}

export interface Ran {
  outcome: RunOutcome;
  /** What it was about when it ended, if it said so. */
  step: Step | null;
  /** Processor time that the page of that step has used, in this run and before. */
  spentSeconds: number;
  peakMemoryMb: number | null;
}

/** How a task is run, whether in a sandbox or in the converter. */
export interface RunOptions {
  deadlineMs: number;
  /** How much of that is gone already. */
  spentMs?: number;
  /** Counts against the limits of pages; without it, no page was begun before. */
  spentOnPage?: SpentOnPage;
  /** Aborted, the task is told to end; if it does not within `YIELD_MS`, it is killed. */
  signal: AbortSignal;
  /** Gets what the task tells, in order, all of it before the run resolves. */
  onEvent: (event: TaskEvent) => void;
}

/** How long a task that was told to end may take to do so. */
export const YIELD_MS = 500;

/** V8's and glibc's ends when an allocation is refused. */
const OUTGROWN_SIGNALS: readonly (NodeJS.Signals | null)[] = ['SIGABRT', 'SIGTRAP'];
const OUTGROWN_CODES: readonly (number | null)[] = [133, 134];

export interface Sandbox {
  child: ChildProcess;
  /** Resolves when its libraries are loaded; rejects when it ends before. */
  ready: Promise<unknown>;
  gone: Promise<unknown>;
  /** Of its process; goes once the process is gone and nobody needs what it has made. */
  folder: PrivateFolder;
  isLeased: boolean;
  tasks: number;
  capMb: number | null;
  /** Resident memory when it last became idle. */
  idleMb: number;
  /** Of the job that it runs, or ran last. */
  log: Logger;
}

/**
 * Runs one task in a sandbox that has nothing else to do, within `memoryMb`. Never rejects. `end` kills the sandbox;
 * `onUncapped` is told where the kernel holds no cap.
 */
export async function runIn(
  sandbox: Sandbox,
  memoryMb: number,
  request: TaskRequest,
  { deadlineMs, spentMs = 0, spentOnPage = () => 0, signal, onEvent }: RunOptions,
  { end, onUncapped }: { end: () => void; onUncapped: () => void },
): Promise<Ran> {
  const { child, log } = sandbox;
  const pid = child.pid ?? 0;
  const { stepSeconds } = request.limits;
  sandbox.tasks++;
  let step: Step | null = null;
  let killedFor: Death | undefined;
  let timedOut = false;
  let over = false;
  let killer: NodeJS.Timeout | undefined;
  const killFor = (how: Death['how'], code: PublicError['code'], message: string) => {
    killedFor ??= { kind: 'died', how, error: { code, message } };
    end();
  };
  const stepTimeout = new StepTimeout(pid, stepSeconds, spentOnPage, (late) =>
    killFor('overdue', 'timeout', `${nameOf(late)} took longer than ${stepSeconds} s`),
  );
  const order = (message: SandboxOrder) => child.send(message, (error) => error && end());
  const abort = (reason: string) => {
    order({ kind: 'abort', reason });
    killer ??= setTimeout(end, YIELD_MS);
  };
  const onAbort = () => abort('the job was taken back');
  const deadline = setTimeout(() => {
    timedOut = true;
    abort('the time is up');
  }, deadlineMs - spentMs);

  const ended = Promise.withResolvers<RunOutcome>();
  const onMessage = (message: SandboxMessage) => {
    stepTimeout.stop();
    if (message.kind === 'ended') ended.resolve(whatEnded(message.outcome));
    else if (message.kind === 'step') {
      step = message.step;
      stepTimeout.begin(message.step);
    } else if (message.kind !== 'ready' && message.kind !== 'warm') onEvent(message);
  };
  const onGone = (code: number | null, by: NodeJS.Signals | null) => {
    ended.resolve(killedFor ?? whatKilled(code, by));
  };
  const whatEnded = (outcome: TaskOutcome): RunOutcome =>
    outcome.kind === 'failed' && outcome.error.code === 'out_of_memory' && outcome.retryable
      ? outgrown(step, memoryMb)
      : outcome;
  const whatKilled = (code: number | null, by: NodeJS.Signals | null): Death => {
    if (OUTGROWN_SIGNALS.includes(by) || OUTGROWN_CODES.includes(code)) return outgrown(step, memoryMb);
    if (by === 'SIGKILL')
      return { kind: 'died', how: 'killed', error: { code: 'out_of_memory', message: 'its sandbox was killed' } };
    const message = `${nameOf(step)} brought its sandbox down (${by ?? `exit ${code}`})`;
    return { kind: 'died', how: 'crashed', error: { code: 'internal', message } };
  };
  child.on('message', onMessage);
  child.on('exit', onGone);
  signal.addEventListener('abort', onAbort);
  let watch: ReturnType<typeof watchMemory> | undefined;
  const begin = async () => {
    await sandbox.ready;
    if (memoryMb > LARGE_MB) lowerPriority(pid);
    sandbox.capMb = await capMemory(pid, memoryMb, sandbox.capMb);
    // Then nobody would stop the watch.
    if (over) return;
    if (sandbox.capMb === null) onUncapped();
    watch = watchMemory(pid, memoryMb, () => {
      killedFor ??= outgrown(step, memoryMb);
      end();
    });
    if (signal.aborted) end();
    else order({ kind: 'run', request });
  };
  begin().catch((error) => {
    ended.resolve({
      kind: 'failed',
      error: { code: 'internal', message: 'its sandbox could not be started' },
      retryable: true,
    });
    if (!timedOut && !signal.aborted) log.error({ err: error }, 'sandbox not started');
  });
  try {
    const ending = await ended.promise;
    if (ending.kind === 'died') sandboxDeaths.inc({ how: timedOut || signal.aborted ? 'stopped' : ending.how });
    const outcome = judge(ending, { timedOut, signal, deadlineMs });
    if (outcome.kind === 'failed' || outcome.kind === 'died') {
      log.info({ ...outcome, step }, 'task failed');
    }
    return { outcome, step, spentSeconds: stepTimeout.spentSeconds(), peakMemoryMb: watch?.stop() ?? null };
  } finally {
    over = true;
    clearTimeout(deadline);
    stepTimeout.stop();
    clearTimeout(killer);
    signal.removeEventListener('abort', onAbort);
    child.off('message', onMessage);
    child.off('exit', onGone);
  }
}

/** What the end of a run means: one that was told to end has not failed, unless its time was up. */
export function judge<Outcome extends RunOutcome>(
  outcome: Outcome,
  { timedOut, signal, deadlineMs }: { timedOut: boolean; signal: AbortSignal; deadlineMs: number },
): Outcome | TaskOutcome | { kind: 'aborted' } {
  if (timedOut) {
    const message = `took longer than ${deadlineMs / 1000} s`;
    return { kind: 'failed', error: { code: 'timeout', message }, retryable: true };
  }
  const failed = outcome.kind === 'failed' || outcome.kind === 'died';
  return failed && signal.aborted ? { kind: 'aborted' } : outcome;
}

function outgrown(step: Step | null, memoryMb: number): Death {
  const message = `${nameOf(step)} needs more than the ${memoryMb} MB reserved`;
  return { kind: 'died', how: 'outgrown', error: { code: 'out_of_memory', message } };
}

function nameOf(step: Step | null): string {
  if (step === null) return 'the task';
  return step.page === null ? 'opening the file' : `page ${step.page}`;
}
