import type { FreeCapacity } from '../jobs/free-capacity.ts';
import type { Shape } from '../jobs/shape.ts';
import { isFor, parseWakeUp, passOn, type WakeUp } from '../jobs/wake.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';

/** The result of a claim. */
export interface Found {
  /** The number of jobs that it started. */
  started: number;
  /** Jobs that it saw and did not start. */
  left: { shape: Shape; waitedSeconds: number }[];
  /** Other jobs are ready that may not start here now. */
  hasOthers: boolean;
  /** Another claim would start no more. */
  isComplete: boolean;
}

interface Parts {
  /** The id of the converter. */
  id: string;
  /** The longest pause between two claims. */
  pollMs: number;
  free: () => FreeCapacity;
  /** Starts jobs that fit. Never rejects. */
  claim: () => Promise<Found>;
  /** Sends wake-ups to other converters. Never rejects. */
  send: (wakeUps: WakeUp[]) => Promise<void>;
}

/**
 * Decides when a converter claims jobs: after a wake-up for a job that may fit, after the end of one of its jobs if others
 * may wait, again after a claim that may have left some, and at least every `pollMs`. A wake-up that starts no job is
 * passed on to the next converter, unless no job is left. The owner calls `close()`.
 */
export class ClaimLoop {
  readonly #parts: Parts;
  readonly #signal = new WakeFlag();
  readonly #running: Promise<void>;
  #peers: readonly string[] = [];
  /** Wake-ups that are not handled yet. */
  #received: WakeUp[] = [];
  /** The shapes of jobs that waited longer than a poll: no converter had room for them. */
  #stuck: Shape[] = [];
  #mustClaim = true;
  /** The last claim left no job, and no wake-up came since. */
  #isQuiet = false;
  #isDraining = false;
  #isClosed = false;
  #claiming: Promise<unknown> = Promise.resolve();

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#running = this.#run();
  }

  /** The ids of the converters that listen to wake-ups, sorted. */
  setPeers(ids: readonly string[]): void {
    this.#peers = ids;
  }

  /** Handles the payload of a NOTIFY. */
  notify(payload: string): void {
    this.#isQuiet = false;
    const wakeUp = parseWakeUp(payload);
    if (wakeUp === undefined) {
      this.claimSoon();
    } else if (isFor(wakeUp, this.#peers, this.#parts.id)) {
      this.#received.push(wakeUp);
      this.#signal.set();
    }
  }

  /** Reports that a job of this converter has ended. */
  jobEnded(): void {
    if (!this.#isQuiet) this.claimSoon();
  }

  /** Claims as soon as no other claim runs. */
  claimSoon(): void {
    this.#mustClaim = true;
    this.#signal.set();
  }

  /** Starts no more jobs, but still passes wake-ups on. Resolves when no claim runs. */
  async drain(): Promise<void> {
    this.#isDraining = true;
    await this.#claiming;
    this.#stuck = [];
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#signal.set();
    await this.#running;
  }

  async #run(): Promise<void> {
    /** Wake-ups for which this converter has started nothing yet. */
    let open: WakeUp[] = [];
    let nextClaimAt = 0;
    while (!this.#isClosed) {
      const { fitting = [], others = [] } = Object.groupBy(this.#received.splice(0), (wakeUp) =>
        this.#mayFit(wakeUp) ? 'fitting' : 'others',
      );
      open.push(...fitting);
      await this.#pass(others.filter((wakeUp) => !this.#isPointless(wakeUp)));
      if (this.#mustClaim || open.length > 0 || performance.now() >= nextClaimAt) {
        const { started, hasLeft, isComplete } = await this.#claim();
        nextClaimAt = performance.now() + this.#parts.pollMs;
        open.splice(0, started);
        if (started > 0 && !isComplete) {
          this.#mustClaim = true;
          continue;
        }
        if (!hasLeft) open = [];
      }
      await this.#pass(open.splice(0));
      await this.#signal.wait(Math.max(0, nextClaimAt - performance.now()));
    }
  }

  /** Returns the number of jobs that it started, and whether other ready jobs are left. */
  async #claim(): Promise<{ started: number; hasLeft: boolean; isComplete: boolean }> {
    this.#mustClaim = false;
    if (this.#isDraining) return { started: 0, hasLeft: true, isComplete: true };
    this.#isQuiet = true;
    const claiming = this.#parts.claim();
    this.#claiming = claiming;
    const { started, left, hasOthers, isComplete } = await claiming;
    const hasLeft = left.length > 0 || hasOthers;
    this.#isQuiet &&= !hasLeft && isComplete;
    this.#stuck = left
      .filter(({ waitedSeconds }) => waitedSeconds * 1_000 > this.#parts.pollMs)
      .map(({ shape }) => shape);
    return { started, hasLeft, isComplete };
  }

  #mayFit({ shape }: WakeUp): boolean {
    if (this.#isDraining) return false;
    const { cpuUnits, memoryMb } = this.#parts.free();
    return isWithin(shape, { cpuUnits, memoryMb });
  }

  /** A converter with room for this job would have taken a stuck one that needs no more. */
  #isPointless({ shape }: WakeUp): boolean {
    return this.#stuck.some((stuck) => isWithin(stuck, shape));
  }

  async #pass(wakeUps: WakeUp[]): Promise<void> {
    const passed = wakeUps.flatMap((wakeUp) => passOn(wakeUp, this.#peers, this.#parts.id) ?? []);
    if (passed.length > 0) await this.#parts.send(passed);
  }
}

function isWithin(inner: Shape, outer: Shape): boolean {
  return inner.cpuUnits <= outer.cpuUnits && inner.memoryMb <= outer.memoryMb;
}
