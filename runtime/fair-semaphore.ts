import { AppError } from './errors.ts';
import { Quota, type Requester } from './quota.ts';

/** No turn came in time. */
export class SemaphoreTimeout extends AppError {
  constructor() {
    super('unavailable', 'the service is busy: try again later', { status: 503 });
  }
}

/** How long a turn is waited for, unless the owner of the turns says otherwise. */
const DEFAULT_WAIT_MS = 10_000;
/** Those of all holders that wait for a turn. */
const MAX_WAITING = 4_000;

type Start = (give: () => void) => void;

/**
 * FairSemaphore to use one of `max` things, such as connections. Without a free one the holders take turns, so that the many
 * requests of one do not delay another.
 */
export class FairSemaphore {
  readonly #maxWaitMs: number;
  readonly #using: Quota;
  readonly #waiting = new Quota({ name: 'requests', max: MAX_WAITING });
  /** The waiting turns, by holder; the holder that is next comes first. */
  readonly #queues = new Map<Requester, Set<Start>>();

  constructor({
    max,
    maxPerRequester,
    maxWaitMs = DEFAULT_WAIT_MS,
  }: {
    max: number;
    maxPerRequester: number;
    maxWaitMs?: number;
  }) {
    this.#maxWaitMs = maxWaitMs;
    this.#using = new Quota({ name: 'requests', max, maxPerRequester });
  }

  /** How many wait for their turn. */
  get waiting(): number {
    return this.#waiting.held;
  }

  /** Waits for a turn; gives the function that ends it. Throws 429 or 503 when too many wait, and `SemaphoreTimeout` when the time is over. */
  async take(holder: Requester): Promise<() => void> {
    const give = this.#queues.has(holder) ? undefined : this.#using.tryTake(holder);
    if (give !== undefined) return this.#ending(give);
    const leave = this.#waiting.take(holder);
    const turn = Promise.withResolvers<() => void>();
    this.#queues.set(holder, (this.#queues.get(holder) ?? new Set()).add(turn.resolve));
    const timer = setTimeout(() => {
      this.#remove(holder, turn.resolve);
      turn.reject(new SemaphoreTimeout());
    }, this.#maxWaitMs);
    try {
      return await turn.promise;
    } finally {
      clearTimeout(timer);
      leave();
    }
  }

  #ending(give: () => void): () => void {
    return () => {
      give();
      this.#startNext();
    };
  }

  #startNext(): void {
    for (const [holder, queue] of this.#queues) {
      const [first] = queue;
      const give = first && this.#using.tryTake(holder);
      if (first === undefined || give === undefined) continue;
      this.#remove(holder, first);
      // Its other requests are next once those of all other holders were.
      if (this.#queues.delete(holder)) this.#queues.set(holder, queue);
      first(this.#ending(give));
      this.#startNext();
      return;
    }
  }

  #remove(holder: Requester, start: Start): void {
    const queue = this.#queues.get(holder);
    queue?.delete(start);
    if (queue?.size === 0) this.#queues.delete(holder);
  }
}
