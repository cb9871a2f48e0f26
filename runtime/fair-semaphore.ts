import { AppError } from './errors.ts';
import { Quota, type Requester } from './quota.ts';

/** A permit was not free in time. */
export class SemaphoreTimeout extends AppError {
  constructor() {
    super('unavailable', 'the service is busy: try again later', { status: 503 });
  }
}

const DEFAULT_WAIT_MS = 10_000;
/** The maximum number of waiting requests, of all requesters. */
const MAX_WAITING = 4_000;

type Release = () => void;
/** Hands a permit to a waiting request. */
type Grant = (release: Release) => void;

/**
 * Permits to use one of `max` things, such as connections. While none is free, requesters take turns, so that many requests
 * of one do not delay another. Requests of one requester are served in their order.
 */
export class FairSemaphore {
  readonly #maxWaitMs: number;
  readonly #used: Quota;
  readonly #waiting = new Quota({ name: 'requests', max: MAX_WAITING });
  /** The waiting requests of each requester. The requester whose turn is next comes first. */
  readonly #queues = new Map<Requester, Set<Grant>>();

  constructor({
    max,
    maxPerRequester = max,
    maxWaitMs = DEFAULT_WAIT_MS,
  }: {
    max: number;
    maxPerRequester?: number;
    maxWaitMs?: number;
  }) {
    this.#maxWaitMs = maxWaitMs;
    this.#used = new Quota({ name: 'requests', max, maxPerRequester });
  }

  /** The number of waiting requests. */
  get waiting(): number {
    return this.#waiting.used;
  }

  /** Waits for a permit; returns the function that releases it. Throws 429 or 503 when too many wait, and `SemaphoreTimeout`. */
  async acquire(requester: Requester): Promise<Release> {
    const release = this.#queues.has(requester) ? undefined : this.#used.tryTake(requester);
    if (release !== undefined) return this.#startNextAfter(release);
    const leaveQueue = this.#waiting.take(requester);
    const permit = Promise.withResolvers<Release>();
    this.#queues.set(requester, (this.#queues.get(requester) ?? new Set()).add(permit.resolve));
    const timer = setTimeout(() => {
      this.#dequeue(requester, permit.resolve);
      permit.reject(new SemaphoreTimeout());
    }, this.#maxWaitMs);
    try {
      return await permit.promise;
    } finally {
      clearTimeout(timer);
      leaveQueue();
    }
  }

  #startNextAfter(release: Release): Release {
    return () => {
      release();
      this.#startNext();
    };
  }

  #startNext(): void {
    for (const [requester, queue] of this.#queues) {
      const [first] = queue;
      const release = first && this.#used.tryTake(requester);
      if (first === undefined || release === undefined) continue;
      this.#dequeue(requester, first);
      // Its other requests move behind those of all other requesters.
      if (this.#queues.delete(requester)) this.#queues.set(requester, queue);
      first(this.#startNextAfter(release));
      this.#startNext();
      return;
    }
  }

  #dequeue(requester: Requester, grant: Grant): void {
    const queue = this.#queues.get(requester);
    queue?.delete(grant);
    if (queue?.size === 0) this.#queues.delete(requester);
  }
}
