import pg from 'pg';
import { FairSemaphore } from '../runtime/fair-semaphore.ts';
import type { Requester } from '../runtime/quota.ts';

const DEFAULT_MAX = 10;
/** The part of the connections that one holder may use. */
const SHARE = 2 / 3;

type Done = (release?: unknown) => void;
type OnConnect = (error: Error | undefined, client: pg.PoolClient | undefined, done: Done) => void;

/**
 * A pool whose connections are shared fairly: holders take turns, and none of them has all connections. Only when a turn
 * has come, the pool itself is asked, so that nobody waits there for a connection that another uses.
 */
export class FairPool extends pg.Pool {
  readonly #turns: FairSemaphore;
  readonly #requesterOf: () => Requester;
  /** Gives back the turn of each connection in use. */
  readonly #giveOf = new WeakMap<pg.PoolClient, () => void>();

  constructor(config: pg.PoolConfig, requesterOf: () => Requester) {
    super(config);
    const { max = DEFAULT_MAX } = config;
    this.#turns = new FairSemaphore({ max, maxPerRequester: max * SHARE });
    this.#requesterOf = requesterOf;
    this.on('release', (_error, client) => this.#giveOf.get(client)?.());
  }

  /** How many wait for their turn, before the pool counts them as waiting. */
  get waitingForTurn(): number {
    return this.#turns.waiting;
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: OnConnect): void;
  override connect(callback?: OnConnect): Promise<pg.PoolClient> | undefined {
    const connecting = this.#connectInTurn();
    if (callback === undefined) return connecting;
    connecting.then(
      (client) => callback(undefined, client, (error) => client.release(error as Error | undefined)),
      (error) => callback(error, undefined, () => undefined),
    );
    return undefined;
  }

  async #connectInTurn(): Promise<pg.PoolClient> {
    const give = await this.#turns.take(this.#requesterOf());
    try {
      const client = await super.connect();
      this.#giveOf.set(client, give);
      return client;
    } catch (error) {
      give();
      throw error;
    }
  }
}
