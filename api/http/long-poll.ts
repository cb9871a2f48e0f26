import type { Request, Response } from 'express';
import { Quota, type Requester } from '../../runtime/quota.ts';
import type { EventHub } from '../events/event-hub.ts';
import { waitOf } from './prefer.ts';
import { callerOf } from './request-state.ts';
import { jobKey, uploadKey } from './status-cache.ts';

/** Below the 4,000 connections of a server, so that some are left for requests that do not wait. */
const MAX_WAITERS = 3_000;
const MAX_WAITERS_PER_OWNER = 1_000;
/** Longer than the maximum wait: a waiting connection is not idle. */
const CONNECTION_TIMEOUT_MS = 90_000;
/** The maximum delay of an answer when a NOTIFY is lost. */
const POLL_MS = 5_000;
const RETRY_AFTER_SECONDS = '1';

/**
 * Holds answers about an upload or job until it has ended (`Prefer: wait`). Waiters are found by key, so that a change
 * costs only the waiters for it. Close it when the process stops.
 */
export class LongPoll {
  /** The waiters for each upload or job. */
  readonly #waiters = new Map<string, Set<Waiter>>();
  readonly #room = new Quota({ name: 'waits', max: MAX_WAITERS, maxPerRequester: MAX_WAITERS_PER_OWNER });
  readonly #polling: NodeJS.Timeout;
  readonly #unsubscribe: () => void;
  #isClosed = false;

  constructor(hub: Pick<EventHub, 'onChange'>) {
    this.#polling = setInterval(() => this.#checkAll(), POLL_MS);
    this.#unsubscribe = hub.onChange((changes) => {
      if (changes === 'all') return this.#checkAll();
      for (const id of changes.jobIds) this.#check(jobKey(id));
      for (const id of changes.uploadIds) this.#check(uploadKey(id));
    });
  }

  /**
   * Gives the result of `read`: at once, or, if the request prefers to wait, when it is done, the wait is over, the client
   * disconnects, or the process stops. Without room for another waiter it does not wait. Sets the headers of the answer.
   */
  async hold<Known extends { done: boolean }>(
    request: Request,
    response: Response,
    key: string,
    read: () => Promise<Known>,
  ): Promise<Known> {
    const seconds = waitOf(request.get('Prefer'));
    const waiter = seconds && this.#addWaiter(key, callerOf(request).requester, response, seconds);
    if (waiter) response.setTimeout(CONNECTION_TIMEOUT_MS);
    if (waiter || seconds === 0) response.set('Preference-Applied', `wait=${seconds}`);
    const known = waiter ? await this.#readUntilDone(waiter, response, read) : await read();
    if (this.#isClosed) response.set('Connection', 'close');
    if (!known.done) response.set('Retry-After', RETRY_AFTER_SECONDS);
    return known;
  }

  /** Answers all waiters with the last state that they read. */
  close(): void {
    this.#isClosed = true;
    clearInterval(this.#polling);
    this.#unsubscribe();
    for (const waiters of this.#waiters.values()) for (const waiter of waiters) waiter.end();
  }

  async #readUntilDone<Known extends { done: boolean }>(
    waiter: Waiter,
    response: Response,
    read: () => Promise<Known>,
  ): Promise<Known> {
    try {
      // The waiter was added before, so that no change between this read and the wait is missed.
      let known = await read();
      while (!known.done && !waiter.isOver) {
        await waiter.nextCheck();
        if (!response.destroyed && !this.#isClosed) known = await read();
      }
      return known;
    } finally {
      waiter.remove();
    }
  }

  /** Gives undefined when there is no room for another waiter, or the process stops. */
  #addWaiter(key: string, requester: Requester, response: Response, seconds: number): Waiter | undefined {
    const releaseRoom = this.#isClosed ? undefined : this.#room.tryTake(requester);
    if (releaseRoom === undefined) return undefined;
    const others = this.#waiters.get(key) ?? new Set();
    const waiter = new Waiter(response, seconds, () => {
      others.delete(waiter);
      if (others.size === 0) this.#waiters.delete(key);
      releaseRoom();
    });
    this.#waiters.set(key, others.add(waiter));
    return waiter;
  }

  #check(key: string): void {
    for (const waiter of this.#waiters.get(key) ?? []) waiter.check();
  }

  #checkAll(): void {
    for (const key of this.#waiters.keys()) this.#check(key);
  }
}

/** One waiting request. */
class Waiter {
  readonly #response: Response;
  readonly #timer: NodeJS.Timeout;
  readonly #onRemove: () => void;
  #isOver = false;
  /** Resolves when the state should be read again. */
  #checked = Promise.withResolvers<void>();

  constructor(response: Response, seconds: number, onRemove: () => void) {
    this.#response = response;
    this.#onRemove = onRemove;
    this.#timer = setTimeout(this.end, seconds * 1000);
    if (response.destroyed) this.end();
    else response.once('close', this.end);
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  check(): void {
    this.#checked.resolve();
  }

  readonly end = (): void => {
    this.#isOver = true;
    this.check();
  };

  async nextCheck(): Promise<void> {
    await this.#checked.promise;
    this.#checked = Promise.withResolvers<void>();
  }

  remove(): void {
    clearTimeout(this.#timer);
    this.#response.off('close', this.end);
    this.#onRemove();
  }
}
