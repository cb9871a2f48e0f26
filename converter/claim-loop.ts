import type { Room } from '../jobs/room.ts';
import type { Shape } from '../jobs/shape.ts';
import { isFor, parseWakeUp, passOn, type WakeUp } from '../jobs/wake.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';

/** How a look found the queue. */
interface Found {
  /** How many jobs it started. */
  started: number;
  /** The jobs that it left. */
  left: { shape: Shape; waitedSeconds: number }[];
  /** Other ready jobs may not start here now. */
  hasOthers: boolean;
  /** Another look would find no more. */
  isComplete: boolean;
}

interface Parts {
  /** The converter's. */
  id: string;
  /** How long after a look the next one takes place at the latest. */
  pollMs: number;
  free: () => Room;
  /** Starts what fits. It does not reject. */
  claim: () => Promise<Found>;
  /** Sends wake-ups to other converters. It does not reject. */
  send: (wakeUps: WakeUp[]) => Promise<void>;
}

/**
 * Decides when a converter looks for jobs: when a wake-up for it names a job that may fit, when one of its jobs ends and
 * others may wait, again after a claim that may have left some, and once in `pollMs`. A wake-up for which it starts nothing goes to the next
 * converter, unless nothing is left to start. The owner calls `close()`.
 */
export class ClaimLoop {
  readonly #parts: Parts;
  readonly #signal = new WakeFlag();
  readonly #running: Promise<void>;
  #peers: readonly string[] = [];
  #heard: WakeUp[] = [];
  /** The shapes of jobs that have waited for longer than a poll: no converter has had room for them. */
  #stuck: Shape[] = [];
  #mustLook = true;
  /** Nothing was left to start at the last look, and nothing was heard since. */
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

  /** Takes the payload of a NOTIFY. */
  hear(payload: string): void {
    this.#isQuiet = false;
    const wakeUp = parseWakeUp(payload);
    if (wakeUp === undefined) {
      this.look();
    } else if (isFor(wakeUp, this.#peers, this.#parts.id)) {
      this.#heard.push(wakeUp);
      this.#signal.set();
    }
  }

  /** A job of this converter has ended. */
  jobEnded(): void {
    if (!this.#isQuiet) this.look();
  }

  /** Looks as soon as no other look is at work. */
  look(): void {
    this.#mustLook = true;
    this.#signal.set();
  }

  /** Starts no more jobs, but still passes wake-ups on. Resolves when no claim is at work. */
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
    let lookAt = 0;
    while (!this.#isClosed) {
      const { fitting = [], others = [] } = Object.groupBy(this.#heard.splice(0), (wakeUp) =>
        this.#mayTake(wakeUp) ? 'fitting' : 'others',
      );
      open.push(...fitting);
      await this.#pass(others.filter((wakeUp) => !this.#isPointless(wakeUp)));
      if (this.#mustLook || open.length > 0 || performance.now() >= lookAt) {
        const { started, leaves, isComplete } = await this.#look();
        lookAt = performance.now() + this.#parts.pollMs;
        open.splice(0, started);
        if (started > 0 && !isComplete) {
          this.#mustLook = true;
          continue;
        }
        if (!leaves) open = [];
      }
      await this.#pass(open.splice(0));
      await this.#signal.wait(Math.max(0, lookAt - performance.now()));
    }
  }

  /** How many jobs it started, and whether it leaves others that are ready. */
  async #look(): Promise<{ started: number; leaves: boolean; isComplete: boolean }> {
    this.#mustLook = false;
    if (this.#isDraining) return { started: 0, leaves: true, isComplete: true };
    this.#isQuiet = true;
    const claiming = this.#parts.claim();
    this.#claiming = claiming;
    const { started, left, hasOthers, isComplete } = await claiming;
    const leaves = left.length > 0 || hasOthers;
    this.#isQuiet &&= !leaves && isComplete;
    this.#stuck = left
      .filter(({ waitedSeconds }) => waitedSeconds * 1_000 > this.#parts.pollMs)
      .map(({ shape }) => shape);
    return { started, leaves, isComplete };
  }

  #mayTake({ shape }: WakeUp): boolean {
    if (this.#isDraining) return false;
    const { cpuUnits, memoryMb } = this.#parts.free();
    return isWithin(shape, { cpuUnits, memoryMb });
  }

  /** A converter with room for such a job would have taken a stuck one that needs no more. */
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
