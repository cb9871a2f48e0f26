import pg from 'pg';
import { FairSemaphore } from '../runtime/fair-semaphore.ts';
import type { Requester } from '../runtime/quota.ts';

const DEFAULT_MAX = 10;
/** The part of the connections that one requester may use. */
const SHARE = 2 / 3;

type Done = (error?: Error | boolean) => void;
type OnConnect = (error: Error | undefined, client: pg.PoolClient | undefined, done: Done) => void;

/**
 * A pool whose connections are shared fairly: requesters take turns, and one requester cannot use all connections. The
 * pool itself is asked only with a permit, so that no request waits in the pool's own queue.
 */
export class FairPool extends pg.Pool {
  readonly #semaphore: FairSemaphore;
  readonly #requesterOf: () => Requester;
  /** Releases the permit of each connection in use. */
  readonly #releaseOf = new WeakMap<pg.PoolClient, () => void>();

  constructor(config: pg.PoolConfig, requesterOf: () => Requester) {
    super(config);
    const { max = DEFAULT_MAX } = config;
    this.#semaphore = new FairSemaphore({ max, maxPerRequester: max * SHARE });
    this.#requesterOf = requesterOf;
    this.on('release', (_error, client) => this.#releaseOf.get(client)?.());
  }

  /** The number of requests that wait for a permit. The pool does not count them as waiting. */
  get waitingForPermit(): number {
    return this.#semaphore.waiting;
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: OnConnect): void;
  override connect(callback?: OnConnect): Promise<pg.PoolClient> | undefined {
    const connecting = this.#connectWithPermit();
    if (callback === undefined) return connecting;
    connecting.then(
      (client) => callback(undefined, client, (error) => client.release(error)),
      (error) => callback(error, undefined, () => undefined),
    );
    return undefined;
  }

  async #connectWithPermit(): Promise<pg.PoolClient> {
    const release = await this.#semaphore.acquire(this.#requesterOf());
    try {
      const client = await super.connect();
      this.#releaseOf.set(client, release);
      return client;
    } catch (error) {
      release();
      throw error;
    }
  }
}
