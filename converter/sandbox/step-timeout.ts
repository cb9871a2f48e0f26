import type { Step } from '../../conversion/conversion-task.ts';
import { cpuSeconds } from './limits.ts';

const SAMPLE_MS = 100;
/** How many times its processor time a step may take by the clock, on a machine that gives it little. */
const MAX_WAIT_FACTOR = 5;

/** The processor time in seconds that a page (null: opening the file) has used in earlier runs. */
export type SpentOnPage = (page: number | null) => number;

/**
 * Holds each page to one limit of processor time, whatever engines draw it and however often its sandbox is started
 * again. An engine that has a substitute gets half of what is left, so that the substitute gets the other half.
 */
export class StepTimeout {
  readonly #pid: () => number;
  readonly #limitSeconds: number;
  readonly #spentBefore: SpentOnPage;
  readonly #onTimeout: (step: Step) => void;
  #step: Step | null = null;
  /** The time that earlier steps of this run spent on the page of the current one. */
  #spentOnPage = 0;
  #usedByStep = 0;
  #cpuAtStart: number | null = null;
  #startedAt = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(pid: () => number, limitSeconds: number, spentBefore: SpentOnPage, onTimeout: (step: Step) => void) {
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

  /** Ends the watch over the current step. */
  stop(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#sample();
  }

  /** The time that the page of the current step has used, in this run and before. */
  spentSeconds(): number {
    return this.#spentBefore(this.#step?.page ?? null) + this.#spentOnPage + this.#usedByStep;
  }

  #isOver(allowedSeconds: number): boolean {
    const waited = this.#sample();
    return this.#usedByStep >= allowedSeconds || waited >= allowedSeconds * MAX_WAIT_FACTOR;
  }

  /** Reads the processor time, or the clock where the kernel does not tell; gives the seconds by the clock. */
  #sample(): number {
    const waited = (performance.now() - this.#startedAt) / 1000;
    const cpu = cpuSeconds(this.#pid());
    if (this.#cpuAtStart === null) this.#usedByStep = waited;
    else if (cpu !== null) this.#usedByStep = cpu - this.#cpuAtStart;
    return waited;
  }
}
