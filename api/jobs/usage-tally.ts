import type { Usage } from '../../db/usage.ts';
import { runForAll } from '../http/requester.ts';

/** How long a reading of the database is used, so that refusals stay cheap. */
const MAX_AGE_MS = 500;

/** One reading of the usage in the database. */
interface Reading {
  usage: Promise<Usage>;
  beganAt: number;
  /** A second reading starts only after the first is done. */
  isDone: boolean;
}

interface Reservation {
  usage: Usage;
  /** When the jobs were committed or refused; undefined until then. */
  endedAt: number | undefined;
}

/**
 * Counts waiting jobs: those in the database at most half a second ago, plus those that this process submits or has
 * submitted since. Concurrent requests share a reading.
 */
export class Tally {
  readonly #read: () => Promise<Usage>;
  #reading: Reading | undefined;
  /** Reservations that the latest reading may not include. */
  #reservations = new Set<Reservation>();

  constructor(read: () => Promise<Usage>) {
    this.#read = read;
  }

  /**
   * Calls `check` with the waiting usage, and reserves `wanted` unless it throws. The caller calls the returned function
   * once the jobs are committed or refused.
   */
  async reserve(wanted: Usage, check: (waiting: Usage) => void): Promise<() => void> {
    const seen = await this.#current();
    // No `await` between the check and the reservation: concurrent requests would exceed the limit together.
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

  /** True if the tally can be dropped without losing a reservation. */
  isIdle(): boolean {
    return (this.#reading?.isDone ?? true) && [...this.#reservations].every(({ endedAt }) => endedAt !== undefined);
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
    const known = this.#reading;
    if (known !== undefined && (!known.isDone || performance.now() - known.beganAt < MAX_AGE_MS)) return known.usage;
    const beganAt = performance.now();
    const reading: Reading = { usage: runForAll(this.#read), beganAt, isDone: false };
    this.#reading = reading;
    // The reading includes the jobs of reservations that ended before it began.
    for (const one of this.#reservations) if (one.endedAt !== undefined) this.#reservations.delete(one);
    reading.usage.then(
      () => {
        reading.isDone = true;
      },
      // The callers receive the error, and the next request reads again.
      () => {
        this.#reading = undefined;
      },
    );
    return reading.usage;
  }
}
