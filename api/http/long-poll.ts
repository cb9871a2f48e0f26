import type { Request, Response } from 'express';
import { Quota, type Requester } from '../../runtime/quota.ts';
import type { EventHub } from '../events/event-hub.ts';
import { callerOf } from './admission.ts';
import { holderOf } from './holder.ts';
import { waitOf } from './prefer.ts';
import { jobKey, uploadKey } from './status-cache.ts';

/** The server takes 4,000 connections: some are left to requests that do not wait. */
const MAX_WAITERS = 3_000;
/** One owner leaves waits to the others. */
const MAX_WAITERS_PER_OWNER = 1_000;
/** Beyond the longest wait: the connection is not idle, it waits. */
const CONNECTION_MS = 90_000;
/** How long a lost NOTIFY can delay an answer. */
const POLL_MS = 5_000;
const RETRY_AFTER_SECONDS = '1';

export type Waiting = ReturnType<typeof createWaiting>;

/**
 * Holds answers until what they tell of has ended (`Prefer: wait`). Waiters are found by what they wait for, so that a
 * change costs as much as there are waiters for it. The owner calls `close()`.
 */
export function createWaiting(hub: Pick<EventHub, 'onChange'>) {
  const waiters = new Map<string, Set<() => void>>();
  const room = new Quota({ name: 'waits', max: MAX_WAITERS, maxPerRequester: MAX_WAITERS_PER_OWNER });
  let closed = false;
  const endings = new Set<() => void>();
  const stopListening = hub.onChange((changes) => {
    if (changes === 'all') return wakeAll();
    for (const id of changes.jobIds) wakeKey(jobKey(id));
    for (const id of changes.uploadIds) wakeKey(uploadKey(id));
  });
  const polling = setInterval(wakeAll, POLL_MS);

  function wakeKey(key: string): void {
    for (const wake of waiters.get(key) ?? []) wake();
  }

  function wakeAll(): void {
    for (const key of waiters.keys()) wakeKey(key);
  }

  /**
   * Rings when a change was heard of, the time is over, the client is gone or the process stops. Undefined when there is no
   * room for another wait.
   */
  function createAlarm(key: string, holder: Requester, response: Response, seconds: number) {
    const give = room.tryTake(holder);
    if (give === undefined) return undefined;
    let changed = Promise.withResolvers<void>();
    let over = false;
    const wake = () => changed.resolve();
    const end = () => {
      over = true;
      wake();
    };
    const timer = setTimeout(end, seconds * 1000);
    if (response.destroyed) end();
    else response.once('close', end);
    const others = waiters.get(key) ?? new Set();
    waiters.set(key, others.add(wake));
    endings.add(end);
    return {
      get over(): boolean {
        return over || closed;
      },
      async rings(): Promise<void> {
        await changed.promise;
        changed = Promise.withResolvers<void>();
      },
      remove(): void {
        clearTimeout(timer);
        response.off('close', end);
        endings.delete(end);
        others.delete(wake);
        if (others.size === 0) waiters.delete(key);
        give();
      },
    };
  }
  return {
    /**
     * What `read` gives: at once, or, if the request prefers to wait, as soon as it is done or the time is over. Sets the
     * headers that say so. When the client goes away meanwhile, what was read last.
     */
    async hold<Known extends { done: boolean }>(
      request: Request,
      response: Response,
      key: string,
      read: () => Promise<Known>,
    ): Promise<Known> {
      const seconds = waitOf(request.get('Prefer'));
      const holder = holderOf(callerOf(request));
      const alarm = seconds && !closed ? createAlarm(key, holder, response, seconds) : undefined;
      let known: Known;
      if (alarm === undefined) {
        known = await read();
        if (seconds === 0) response.set('Preference-Applied', 'wait=0');
      } else {
        response.set('Preference-Applied', `wait=${seconds}`);
        response.setTimeout(CONNECTION_MS);
        try {
          // From here on changes are heard, so that none is lost between this read and the wait.
          known = await read();
          while (!known.done && !alarm.over) {
            await alarm.rings();
            if (!response.destroyed && !closed) known = await read();
          }
        } finally {
          alarm.remove();
        }
      }
      if (closed) response.set('Connection', 'close');
      if (!known.done) response.set('Retry-After', RETRY_AFTER_SECONDS);
      return known;
    },
    /** Answers all who wait with what is known. */
    close(): void {
      closed = true;
      clearInterval(polling);
      stopListening();
      for (const end of endings) end();
    },
  };
}
