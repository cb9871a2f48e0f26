import type { Step } from '../../jobs/task.ts';
import type { RunOptions } from '../task-runner.ts';

const SAMPLE_MS = 100;
/** The ratio of elapsed time to processor time that a step may use, on a busy machine. */
const MAX_WAIT_FACTOR = 5;

export interface StepTimeoutOptions {
  /** Reads the processor time of the sandbox; null where the kernel does not report it. */
  cpuSeconds: () => number | null;
  /** The limit of a page. */
  limitSeconds: number;
  /** The time that earlier runs spent on a page. */
  spentBefore: NonNullable<RunOptions['spentOnPage']>;
  onTimeout: (step: Step) => void;
}

/**
 * Limits the processor time of each page, over all engines that draw it and all sandboxes that they run in. An engine with
 * a fallback gets half of the time left, so that the fallback gets the other half.
 */
export class StepTimeout {
  readonly #options: StepTimeoutOptions;
  #step: Step | null = null;
  /** The time that earlier steps of this run used for the page of the current step. */
  #spentOnPage = 0;
  #usedByStep = 0;
  #cpuAtStart: number | null = null;
  #startedAt = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: StepTimeoutOptions) {
    this.#options = options;
  }

  begin(step: Step): void {
    this.stop();
    this.#spentOnPage = this.#step?.page === step.page ? this.#spentOnPage + this.#usedByStep : 0;
    this.#step = step;
    this.#usedByStep = 0;
    this.#cpuAtStart = this.#options.cpuSeconds();
    this.#startedAt = performance.now();
    const left = Math.max(0, this.#options.limitSeconds - this.spentSeconds());
    const allowed = step.last ? left : left / 2;
    this.#timer = setInterval(() => {
      if (!this.#isOver(allowed)) return;
      this.stop();
      this.#options.onTimeout(step);
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
    return this.#options.spentBefore(this.#step?.page ?? null) + this.#spentOnPage + this.#usedByStep;
  }

  #isOver(allowedSeconds: number): boolean {
    const elapsed = this.#sample();
    return this.#usedByStep >= allowedSeconds || elapsed >= allowedSeconds * MAX_WAIT_FACTOR;
  }

  /** Reads the processor time, or the clock where the kernel does not report it. Returns the elapsed seconds. */
  #sample(): number {
    const elapsed = (performance.now() - this.#startedAt) / 1000;
    const cpu = this.#options.cpuSeconds();
    if (this.#cpuAtStart === null) this.#usedByStep = elapsed;
    else if (cpu !== null) this.#usedByStep = cpu - this.#cpuAtStart;
    return elapsed;
  }
}
