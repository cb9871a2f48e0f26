import type { Usage } from '../../db/usage.ts';
import { runForAll } from '../http/holder.ts';

/** A look at the database is good for this long: refusing must stay cheap. */
const GOOD_FOR_MS = 500;

interface Look {
  usage: Promise<Usage>;
  beganAt: number;
  /** True once it has an outcome: no second look begins before. */
  isDone: boolean;
}

interface Reservation {
  usage: Usage;
  /** When the jobs were committed or refused; undefined until then. */
  endedAt: number | undefined;
}

/**
 * Counts what waits: as the database said at most half a second ago, plus what this process is about to submit or has
 * submitted since. Requests at the same time share a look.
 */
export class Tally {
  readonly #read: () => Promise<Usage>;
  /** The latest look. */
  #look: Look | undefined;
  /** The usage that the latest look has not seen, or may not have seen. */
  #reservations = new Set<Reservation>();

  constructor(read: () => Promise<Usage>) {
    this.#read = read;
  }

  /**
   * Calls `check` with what waits already, and reserves `wanted` unless it throws. The caller calls what this gives once
   * the jobs are committed or refused.
   */
  async reserve(wanted: Usage, check: (waiting: Usage) => void): Promise<() => void> {
    // Nothing may come between the check and the reservation.
    const seen = await this.#current();
    check(this.#sum(seen));
    const reservation: Reservation = { usage: wanted, endedAt: undefined };
    this.#reservations.add(reservation);
    return () => {
      reservation.endedAt ??= performance.now();
    };
  }

  async read(): Promise<Usage> {
    return this.#sum(await this.#current());
  }

  /** True if nothing is lost with it. */
  isIdle(): boolean {
    return (this.#look?.isDone ?? true) && [...this.#reservations].every(({ endedAt }) => endedAt !== undefined);
  }

  #sum(seen: Usage): Usage {
    const usages = [seen, ...[...this.#reservations].map(({ usage }) => usage)];
    return {
      jobs: usages.reduce((sum, { jobs }) => sum + jobs, 0),
      payloadBytes: usages.reduce((sum, { payloadBytes }) => sum + payloadBytes, 0),
      shapes: new Set(usages.flatMap(({ shapes }) => [...shapes])),
    };
  }

  #current(): Promise<Usage> {
    const known = this.#look;
    if (known !== undefined && (!known.isDone || performance.now() - known.beganAt < GOOD_FOR_MS)) return known.usage;
    const beganAt = performance.now();
    const look: Look = { usage: runForAll(this.#read), beganAt, isDone: false };
    this.#look = look;
    // It sees what ended before it began.
    for (const one of this.#reservations) if (one.endedAt !== undefined) this.#reservations.delete(one);
    look.usage.then(
      () => {
        look.isDone = true;
      },
      // The next request looks again.
      () => {
        this.#look = undefined;
      },
    );
    return look.usage;
  }
}
