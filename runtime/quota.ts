import { AppError } from './errors.ts';

/** An owner, or the address of a client without a key. Undefined stands for the service itself, which has no share. */
export type Requester = string | undefined;

/** The part of a quota that only requesters with little may use. */
const RESERVED = 1 / 4;
/** The part of a quota that counts as little. */
const LITTLE = 1 / 16;
const RETRY_AFTER_SECONDS = 5;

/**
 * A limit of `max` things of a kind in this process, such as connections or bytes. One requester uses at most
 * `maxPerRequester`, and the last quarter is reserved for requesters that use little, so that no one takes all.
 */
export class Quota {
  readonly #name: string;
  readonly #max: number;
  readonly #maxPerRequester: number;
  readonly #usedBy = new Map<Requester, number>();
  #used = 0;

  /** @param name the things in the plural, for errors: `open streams` */
  constructor({ name, max, maxPerRequester = max / 2 }: { name: string; max: number; maxPerRequester?: number }) {
    this.#name = name;
    this.#max = max;
    this.#maxPerRequester = Math.min(max, Math.max(1, Math.floor(maxPerRequester)));
  }

  get used(): number {
    return this.#used;
  }

  /**
   * Takes a part of the quota; returns the function that releases it. Throws 429 when the requester has its share, and 503
   * when all is used. A part larger than the share counts as the share.
   */
  take(requester: Requester, amount = 1): () => void {
    const release = this.tryTake(requester, amount);
    if (release !== undefined) return release;
    const part = Math.min(amount, this.#maxPerRequester);
    const exceedsShare = (this.#usedBy.get(requester) ?? 0) + part > this.#maxPerRequester;
    const isOwnFault = requester !== undefined && (exceedsShare || this.#used + part <= this.#max);
    throw new AppError(
      isOwnFault ? 'too_many_requests' : 'unavailable',
      `too many ${this.#name} at a time: try again later`,
      { status: isOwnFault ? 429 : 503, details: { retry_after_seconds: RETRY_AFTER_SECONDS } },
    );
  }

  /** As `take`, but returns undefined instead of throwing. */
  tryTake(requester: Requester, amount = 1): (() => void) | undefined {
    const part = Math.min(amount, this.#maxPerRequester);
    if (!this.#fits(requester, part)) return undefined;
    this.#add(requester, part);
    let isReleased = false;
    return () => {
      if (!isReleased) this.#add(requester, -part);
      isReleased = true;
    };
  }

  #fits(requester: Requester, part: number): boolean {
    const all = this.#used + part;
    if (all > this.#max) return false;
    if (requester === undefined) return true;
    const own = (this.#usedBy.get(requester) ?? 0) + part;
    if (own > this.#maxPerRequester) return false;
    return all <= this.#max * (1 - RESERVED) || own <= Math.max(1, this.#max * LITTLE);
  }

  #add(requester: Requester, part: number): void {
    this.#used += part;
    const own = (this.#usedBy.get(requester) ?? 0) + part;
    if (own === 0) this.#usedBy.delete(requester);
    else this.#usedBy.set(requester, own);
  }
}
