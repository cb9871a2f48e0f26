import type { Step } from '../../jobs/task.ts';
import type { RunOptions } from '../task-runner.ts';
import { cpuSeconds } from './cpu.ts';

const SAMPLE_MS = 100;
/** The ratio of elapsed time to processor time that a step may use, on a busy machine. */
const MAX_WAIT_FACTOR = 5;

type SpentBefore = NonNullable<RunOptions['spentOnPage']>;

/**
 * Limits the processor time of each page, over all engines that draw it and all sandboxes that they run in. An engine with
 * a fallback gets half of the time left, so that the fallback gets the other half.
 */
export class StepTimeout {
  readonly #pid: () => number;
  readonly #limitSeconds: number;
  readonly #spentBefore: SpentBefore;
  readonly #onTimeout: (step: Step) => void;
  #step: Step | null = null;
  /** The time that earlier steps of this run used for the page of the current step. */
  #spentOnPage = 0;
  #usedByStep = 0;
  #cpuAtStart: number | null = null;
  #startedAt = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(pid: () => number, limitSeconds: number, spentBefore: SpentBefore, onTimeout: (step: Step) => void) {
    this.#pid = pid;
    this.#limitSeconds = limitSeconds;
    this.#spentBefore = spentBefore;
    this.#onTimeout = onTimeout;
  }

  begin(step: Step): void {
    this.stop();
    this.#spentOnPage = this.#step?.page === step.page ? this.#spentOnPage + this.#usedByStep : 0;
    this.#step = step;
    this.#usedByStep = 0;
    this.#cpuAtStart = cpuSeconds(this.#pid());
    this.#startedAt = performance.now();
    const left = Math.max(0, this.#limitSeconds - this.spentSeconds());
    const allowed = step.last ? left : left / 2;
    this.#timer = setInterval(() => {
      if (!this.#isOver(allowed)) return;
      this.stop();
      this.#onTimeout(step);
    }, SAMPLE_MS);
  }

  /** Stops timing the current step. */
  stop(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#sample();
  }

  /** The processor time that the page of the current step used, in this run and earlier ones. */
  spentSeconds(): number {
    return this.#spentBefore(this.#step?.page ?? null) + this.#spentOnPage + this.#usedByStep;
  }

  #isOver(allowedSeconds: number): boolean {
    const waited = this.#sample();
    return this.#usedByStep >= allowedSeconds || waited >= allowedSeconds * MAX_WAIT_FACTOR;
  }

  /** Reads the processor time, or the clock where the kernel does not report it. Returns the elapsed seconds. */
  #sample(): number {
    const waited = (performance.now() - this.#startedAt) / 1000;
    const cpu = cpuSeconds(this.#pid());
    if (this.#cpuAtStart === null) this.#usedByStep = waited;
    else if (cpu !== null) this.#usedByStep = cpu - this.#cpuAtStart;
    return waited;
  }
}
