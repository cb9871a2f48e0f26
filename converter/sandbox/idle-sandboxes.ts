import { ORDINARY_MB } from '../../jobs/shape.ts';
import type { Sandbox } from './sandbox.ts';

/** The share of a reservation that an idle sandbox may use already: one that has grown is replaced. */
const MAX_IDLE_SHARE = 0.62;
/** A sandbox with more memory is of no use for an ordinary PDF, so it is not kept. */
const MAX_IDLE_MB = MAX_IDLE_SHARE * ORDINARY_MB;
/** Sandboxes of several owners are kept: starting one takes longer than converting most images. */
const MAX_OWNERS = 4;
/** The number of tasks after which a sandbox is replaced. */
const MAX_TASKS = 200;

/** The sandboxes that wait for a task, the longest idle first: decides which are kept, and which a task gets. */
export class IdleSandboxes {
  /** The number that is kept for each owner. */
  readonly #keep: number;
  #waiting: Sandbox[] = [];

  constructor(keep: number) {
    this.#keep = keep;
  }

  get size(): number {
    return this.#usable().length;
  }

  get memoryMb(): number {
    return this.#usable().reduce((sum, { idleMb }) => sum + idleMb, 0);
  }

  addFresh(sandbox: Sandbox): void {
    this.#waiting.push(sandbox);
  }

  /** Keeps a healthy sandbox after its task, and ends the longest idle one if there are too many. Returns whether it is kept. */
  keep(sandbox: Sandbox): boolean {
    const isHealthy = sandbox.isUsable && sandbox.taskCount < MAX_TASKS && sandbox.idleMb <= MAX_IDLE_MB;
    // The processes that a task started and left behind end with its sandbox.
    if (!isHealthy || sandbox.process.descendants().length > 0) return false;
    if (this.#usable().filter((other) => other.hasSameTaint(sandbox)).length >= this.#keep) return false;
    if (this.size >= this.#keep * MAX_OWNERS) this.endLongestIdle();
    this.#waiting.push(sandbox);
    return true;
  }

  /** Takes the sandbox that a task of this owner may use, the latest used first. */
  take(memoryMb: number, owner: string | null): Sandbox | undefined {
    const fitting = this.#usable().filter(({ idleMb }) => idleMb <= MAX_IDLE_SHARE * memoryMb);
    const taken =
      fitting.findLast((sandbox) => sandbox.isTaintedBy(owner)) ?? fitting.findLast((sandbox) => !sandbox.isTainted);
    this.#waiting = this.#waiting.filter((sandbox) => sandbox !== taken);
    return taken;
  }

  endLongestIdle(): void {
    this.#usable()[0]?.end();
  }

  /** A waiting sandbox may end at any time. */
  #usable(): Sandbox[] {
    this.#waiting = this.#waiting.filter(({ isUsable }) => isUsable);
    return this.#waiting;
  }
}
