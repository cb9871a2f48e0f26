import { AppError } from './errors.ts';

/** A party that shares a room: an owner, or the address of a client without a key; undefined has no share, only the whole. */
export type Requester = string | undefined;

/** The part of a room that only holders of little may fill. */
const RESERVED = 1 / 4;
/** The part of a room that still counts as little. */
const LITTLE = 1 / 16;
const RETRY_AFTER_SECONDS = 5;

/**
 * Quota for `max` things of a kind in this process (connections, bytes). One holder has at most `maxPerRequester` of them, and
 * the last quarter is left to those that hold little, so that nobody takes the last of it from the others.
 */
export class Quota {
  readonly #name: string;
  readonly #max: number;
  readonly #maxPerRequester: number;
  readonly #heldBy = new Map<Requester, number>();
  #held = 0;

  /** @param name such as `open streams`: errors say that there are too many of these */
  constructor({ name, max, maxPerRequester = max / 2 }: { name: string; max: number; maxPerRequester?: number }) {
    this.#name = name;
    this.#max = max;
    this.#maxPerRequester = Math.min(max, Math.max(1, Math.floor(maxPerRequester)));
  }

  get held(): number {
    return this.#held;
  }

  /**
   * Takes room; gives the function that gives it back. Throws 429 when the holder has its share, and 503 when all is taken.
   * More than the share of a holder counts as its share.
   */
  take(holder: Requester, amount = 1): () => void {
    const give = this.tryTake(holder, amount);
    if (give !== undefined) return give;
    const taken = Math.min(amount, this.#maxPerRequester);
    const isBeyondShare = (this.#heldBy.get(holder) ?? 0) + taken > this.#maxPerRequester;
    const isOwn = holder !== undefined && (isBeyondShare || this.#held + taken <= this.#max);
    throw new AppError(
      isOwn ? 'too_many_requests' : 'unavailable',
      `too many ${this.#name} at a time: try again later`,
      {
        status: isOwn ? 429 : 503,
        details: { retry_after_seconds: RETRY_AFTER_SECONDS },
      },
    );
  }

  /** Takes room as `take` does; gives undefined when there is none. */
  tryTake(holder: Requester, amount = 1): (() => void) | undefined {
    const taken = Math.min(amount, this.#maxPerRequester);
    if (!this.#fits(holder, taken)) return undefined;
    this.#add(holder, taken);
    let isGiven = false;
    return () => {
      if (!isGiven) this.#add(holder, -taken);
      isGiven = true;
    };
  }

  #fits(holder: Requester, amount: number): boolean {
    const all = this.#held + amount;
    if (all > this.#max) return false;
    if (holder === undefined) return true;
    const own = (this.#heldBy.get(holder) ?? 0) + amount;
    if (own > this.#maxPerRequester) return false;
    return all <= this.#max * (1 - RESERVED) || own <= Math.max(1, this.#max * LITTLE);
  }

  #add(holder: Requester, amount: number): void {
    this.#held += amount;
    const own = (this.#heldBy.get(holder) ?? 0) + amount;
    if (own === 0) this.#heldBy.delete(holder);
    else this.#heldBy.set(holder, own);
  }
}
