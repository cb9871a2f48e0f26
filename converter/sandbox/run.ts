import { constants } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Step } from '../../conversion/conversion-task.ts';
import { LARGE_MB } from '../../jobs/shape.ts';
import type { PublicError } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { PrivateFolder } from '../files/private-folder.ts';
import { sandboxDeaths } from '../metrics.ts';
import type { TaskEvent, TaskOutcome, TaskRequest } from '../run-task.ts';
import type { Channel } from './channel.ts';
import { type FileWatch, MAX_FILES_MB, watchFiles } from './folder-size.ts';
import { capMemory, lowerPriority, watchMemory } from './limits.ts';
import type { SandboxProcess } from './process.ts';
import type { RunMessage } from './protocol.ts';
import { type SpentOnPage, StepTimeout } from './step-timeout.ts';

/** How a run ended. `aborted` only after the converter aborted it; `died` with its sandbox, which took nothing along. */
export type RunOutcome = TaskOutcome | { kind: 'aborted' } | Death;

export interface Death {
  kind: 'died';
  /** It met its cap; a step took too long; it wrote too much; it crashed; another process killed it; or it sent an invalid message. */
  how: 'outgrown' | 'overdue' | 'overfull' | 'crashed' | 'killed' | 'violated';
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
  /**
   * Gets what the task tells, in order, all of it before the run resolves. A promise that it gives delays further events.
   */
  onEvent: (event: TaskEvent) => unknown;
}

/** How long a task that was told to end may take to do so. */
export const YIELD_MS = 500;
/** How long the messages that a sandbox sent before its end are read after it. */
const DRAIN_MS = 1_000;

const VIOLATED: Death = {
  kind: 'died',
  how: 'violated',
  error: { code: 'sandbox_violation', message: 'it was stopped because its sandbox sent invalid data' },
};

/** V8's and glibc's ends when an allocation is refused. */
const OUTGROWN_SIGNALS: readonly (string | null)[] = ['SIGABRT', 'SIGTRAP'];
/** A shell gives the signal that ended its child as a code above this one. */
const SIGNAL_CODES = 128;

export interface Sandbox {
  process: SandboxProcess;
  channel: Channel;
  /** It has sent an invalid message, and is killed for that. */
  hasViolated: boolean;
  /** The owner whose bytes its native code has decoded; undefined while it is clean. See freshness.ts. */
  taint: { owner: string | null } | undefined;
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
 * `onStep` is called with each step, and `onUncapped` where the kernel holds no cap.
 */
export async function runIn(
  sandbox: Sandbox,
  memoryMb: number,
  request: TaskRequest,
  { deadlineMs, spentMs = 0, spentOnPage = () => 0, signal, onEvent }: RunOptions,
  { end, onStep, onUncapped }: { end: () => void; onStep: (step: Step) => void; onUncapped: () => void },
): Promise<Ran> {
  const { process, channel, log } = sandbox;
  const { child } = process;
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
  const stepTimeout = new StepTimeout(
    () => process.pid,
    stepSeconds,
    spentOnPage,
    (late) => killFor('overdue', 'timeout', `${nameOf(late)} took longer than ${stepSeconds} s`),
  );
  const abort = (reason: string) => {
    channel.abort(reason);
    killer ??= setTimeout(end, YIELD_MS);
  };
  const onAbort = () => abort('the job was taken back');
  const deadline = setTimeout(() => {
    timedOut = true;
    abort('the time is up');
  }, deadlineMs - spentMs);

  const ended = Promise.withResolvers<RunOutcome>();
  const onMessage = (message: RunMessage) => {
    if (over) return undefined;
    stepTimeout.stop();
    if (message.kind === 'ended') ended.resolve(whatEnded(message.outcome));
    else if (message.kind === 'step') {
      step = message.step;
      onStep(step);
      stepTimeout.begin(step);
    } else {
      const handled = onEvent(message);
      if (handled instanceof Promise) return handled;
    }
    return undefined;
  };
  const onGone = async (code: number | null, by: NodeJS.Signals | null) => {
    await Promise.race([channel.ended, delay(DRAIN_MS, undefined, { ref: false })]);
    ended.resolve(sandbox.hasViolated ? VIOLATED : (killedFor ?? whatKilled(code, by ?? signalIn(code))));
  };
  const whatEnded = (outcome: TaskOutcome): RunOutcome =>
    outcome.kind === 'failed' && outcome.error.code === 'out_of_memory' && outcome.retryable
      ? outgrown(step, memoryMb)
      : outcome;
  const whatKilled = (code: number | null, by: string | null): Death => {
    if (OUTGROWN_SIGNALS.includes(by)) return outgrown(step, memoryMb);
    if (by === 'SIGKILL')
      return { kind: 'died', how: 'killed', error: { code: 'out_of_memory', message: 'its sandbox was killed' } };
    log.warn({ step, exit: by ?? code }, 'sandbox crashed');
    return { kind: 'died', how: 'crashed', error: crashError(step) };
  };
  child.on('exit', onGone);
  signal.addEventListener('abort', onAbort);
  let watch: ReturnType<typeof watchMemory> | undefined;
  let files: FileWatch | undefined;
  const begin = async () => {
    await sandbox.ready;
    const { pid } = process;
    if (memoryMb > LARGE_MB) lowerPriority(pid);
    sandbox.capMb = await capMemory(pid, memoryMb, sandbox.capMb, process.uid);
    // Then nobody would stop the watch.
    if (over) return;
    if (sandbox.capMb === null) onUncapped();
    const onOver = () => {
      killedFor ??= outgrown(step, memoryMb);
      end();
    };
    files = await watchFiles({ folder: process.folder, pid, others: () => process.others() }, () =>
      killFor('overfull', 'task_failed', `${nameOf(step)} wrote more than ${MAX_FILES_MB} MB`),
    );
    if (over) return files.stop();
    watch = watchMemory(pid, memoryMb, onOver, { startedBy: () => process.others(), besidesMb: files.memoryMb });
    if (signal.aborted) end();
    else channel.run(request, onMessage);
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
    files?.stop();
    clearTimeout(deadline);
    stepTimeout.stop();
    clearTimeout(killer);
    signal.removeEventListener('abort', onAbort);
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

/** The signal in the exit code of a shell, or of Node after an abort. */
function signalIn(code: number | null): string | null {
  const number = (code ?? 0) - SIGNAL_CODES;
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ?? null;
}

function outgrown(step: Step | null, memoryMb: number): Death {
  const message = `${nameOf(step)} needs more than the ${memoryMb} MB reserved`;
  return { kind: 'died', how: 'outgrown', error: { code: 'out_of_memory', message } };
}

/** An engine that crashes on a file cannot read it; another engine may. Without a step, the file is not to blame. */
function crashError(step: Step | null): PublicError {
  return step === null
    ? { code: 'internal', message: 'the task crashed' }
    : { code: 'corrupt_file', message: `${nameOf(step)} failed: the engine crashed` };
}

function nameOf(step: Step | null): string {
  if (step === null) return 'the task';
  return step.page === null ? 'opening the file' : `page ${step.page}`;
}
