import { setTimeout as delay } from 'node:timers/promises';
import type { Step } from '../../conversion/conversion-task.ts';
import { LARGE_MB } from '../../jobs/background-lane.ts';
import { sandboxDeaths } from '../metrics.ts';
import type { TaskOutcome, TaskRequest } from '../run-task.ts';
import {
  ABORT_GRACE_MS,
  type AbnormalEnd,
  outcomeAfterStop,
  type RunOptions,
  type RunOutcome,
  type RunResult,
} from '../task-runner.ts';
import { cpuSeconds, lowerPriority } from './cpu.ts';
import { type FileWatch, watchFiles } from './disk-limit.ts';
import { classifyExit, diskExceeded, memoryExceeded, PROTOCOL_VIOLATION, stepTimedOut } from './exit.ts';
import { type MemoryWatch, watchMemory } from './memory-limit.ts';
import type { RunMessage } from './protocol.ts';
import type { Sandbox } from './sandbox.ts';
import { StepTimeout } from './step-timeout.ts';

/** The time to read the messages that a sandbox sent before it exited. */
const DRAIN_MS = 1_000;

const NOT_STARTED: TaskOutcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'sandbox could not be started' },
  retryable: true,
};

interface Listeners {
  onStep: (step: Step) => void;
  /** Called where the kernel cannot limit memory. */
  onUnlimited: () => void;
}

/** Runs one task in an idle sandbox, within `memoryMb`. Never rejects. */
export function runInSandbox(
  sandbox: Sandbox,
  memoryMb: number,
  request: TaskRequest,
  options: RunOptions,
  listeners: Listeners,
): Promise<RunResult> {
  return new SandboxRun(sandbox, memoryMb, request, options, listeners).run();
}

class SandboxRun {
  readonly #sandbox: Sandbox;
  readonly #memoryMb: number;
  readonly #request: TaskRequest;
  readonly #options: RunOptions;
  readonly #listeners: Listeners;
  readonly #stepTimeout: StepTimeout;
  readonly #ended = Promise.withResolvers<RunOutcome>();
  #step: Step | null = null;
  /** The reason for which the converter killed the sandbox. */
  #killedFor: AbnormalEnd | undefined;
  #killTimer: NodeJS.Timeout | undefined;
  #memoryWatch: MemoryWatch | undefined;
  #fileWatch: FileWatch | undefined;
  #isTimedOut = false;
  #isOver = false;

  constructor(sandbox: Sandbox, memoryMb: number, request: TaskRequest, options: RunOptions, listeners: Listeners) {
    this.#sandbox = sandbox;
    this.#memoryMb = memoryMb;
    this.#request = request;
    this.#options = options;
    this.#listeners = listeners;
    const { stepSeconds } = request.limits;
    this.#stepTimeout = new StepTimeout({
      cpuSeconds: () => cpuSeconds(sandbox.process.pid),
      limitSeconds: stepSeconds,
      spentBefore: options.spentOnPage ?? (() => 0),
      onTimeout: (step) => this.#kill(stepTimedOut(step, stepSeconds)),
    });
  }

  async run(): Promise<RunResult> {
    const { deadlineMs, spentMs = 0, signal } = this.#options;
    const { child } = this.#sandbox.process;
    const onAbort = () => this.#abort('the job was cancelled or returned to the queue');
    const onExit = (code: number | null, by: NodeJS.Signals | null) => void this.#onExit(code, by);
    const deadline = setTimeout(() => this.#onDeadline(), deadlineMs - spentMs);
    child.on('exit', onExit);
    signal.addEventListener('abort', onAbort);
    this.#sandbox.countTask();
    this.#begin().catch((error) => this.#onNotStarted(error));
    try {
      return this.#resultOf(await this.#ended.promise);
    } finally {
      this.#isOver = true;
      clearTimeout(deadline);
      clearTimeout(this.#killTimer);
      this.#stepTimeout.stop();
      this.#fileWatch?.stop();
      signal.removeEventListener('abort', onAbort);
      child.off('exit', onExit);
    }
  }

  /** Sends the task once its limits are in place. */
  async #begin(): Promise<void> {
    const { process, channel, ready } = this.#sandbox;
    await ready;
    const { pid } = process;
    if (this.#memoryMb > LARGE_MB) lowerPriority(pid);
    const isLimited = await this.#sandbox.limitMemory(this.#memoryMb);
    // Nothing would stop a watch that begins after the run.
    if (this.#isOver) return;
    if (!isLimited) this.#listeners.onUnlimited();
    const descendants = () => process.descendants();
    const files = await watchFiles({ folder: process.folder, pid, descendants }, () =>
      this.#kill(diskExceeded(this.#step)),
    );
    if (this.#isOver) return files.stop();
    this.#fileWatch = files;
    const onOver = () => this.#kill(memoryExceeded(this.#step, this.#memoryMb));
    this.#memoryWatch = watchMemory(pid, this.#memoryMb, onOver, { descendants, fileMb: files.memoryMb });
    if (this.#options.signal.aborted) this.#sandbox.end();
    else channel.run(this.#request, (message) => this.#onMessage(message));
  }

  #onNotStarted(error: unknown): void {
    this.#ended.resolve(NOT_STARTED);
    if (!this.#isTimedOut && !this.#options.signal.aborted) {
      this.#sandbox.log.error({ err: error }, 'sandbox could not be started');
    }
  }

  #onMessage(message: RunMessage): Promise<void> | undefined {
    if (this.#isOver) return undefined;
    this.#stepTimeout.stop();
    if (message.kind === 'ended') this.#ended.resolve(this.#outcomeOf(message.outcome));
    else if (message.kind === 'step') {
      this.#step = message.step;
      this.#listeners.onStep(message.step);
      this.#stepTimeout.begin(message.step);
    } else {
      const handled = this.#options.onEvent(message);
      if (handled instanceof Promise) return handled;
    }
    return undefined;
  }

  /** A task that caught a refused allocation has exceeded its reservation. */
  #outcomeOf(outcome: TaskOutcome): RunOutcome {
    const isOutOfMemory = outcome.kind === 'failed' && outcome.error.code === 'out_of_memory' && outcome.retryable;
    return isOutOfMemory ? memoryExceeded(this.#step, this.#memoryMb) : outcome;
  }

  async #onExit(code: number | null, signal: NodeJS.Signals | null): Promise<void> {
    const { channel, log } = this.#sandbox;
    await Promise.race([channel.ended, delay(DRAIN_MS, undefined, { ref: false })]);
    if (this.#sandbox.hasViolated) return this.#ended.resolve(PROTOCOL_VIOLATION);
    const end = this.#killedFor ?? classifyExit({ code, signal }, this.#step, this.#memoryMb);
    if (end.how === 'crashed') log.warn({ step: this.#step, exit: signal ?? code }, 'sandbox crashed');
    this.#ended.resolve(end);
  }

  #resultOf(ending: RunOutcome): RunResult {
    const { signal, deadlineMs } = this.#options;
    const isTimedOut = this.#isTimedOut;
    if (ending.kind === 'died') sandboxDeaths.inc({ how: isTimedOut || signal.aborted ? 'stopped' : ending.how });
    const outcome = outcomeAfterStop(ending, { isTimedOut, signal, deadlineMs });
    const step = this.#step;
    if (outcome.kind === 'failed' || outcome.kind === 'died') {
      this.#sandbox.log.info({ ...outcome, step }, 'task failed');
    }
    const peakMemoryMb = this.#memoryWatch?.stop() ?? null;
    return { outcome, step, spentSeconds: this.#stepTimeout.spentSeconds(), peakMemoryMb };
  }

  #onDeadline(): void {
    this.#isTimedOut = true;
    this.#abort('timeout exceeded');
  }

  /** Asks the task to stop, and kills the sandbox if it does not. */
  #abort(reason: string): void {
    this.#sandbox.channel.abort(reason);
    this.#killTimer ??= setTimeout(() => this.#sandbox.end(), ABORT_GRACE_MS);
  }

  #kill(reason: AbnormalEnd): void {
    this.#killedFor ??= reason;
    this.#sandbox.end();
  }
}
