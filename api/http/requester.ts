import { AsyncLocalStorage } from 'node:async_hooks';
import type { ServerResponse } from 'node:http';
import type { Requester } from '../../runtime/quota.ts';

const requesters = new AsyncLocalStorage<Requester>();

/** Calls `release` when the response is closed, or now if it is closed already. */
export function releaseOnClose(response: ServerResponse, release: () => void): void {
  if (response.destroyed) release();
  else response.once('close', release);
}

/** Runs the work of one requester: its database queries are queued under this name. */
export function runFor<Result>(requester: Requester, work: () => Result): Result {
  return requesters.run(requester, work);
}

/** Runs work that many callers share, so that it does not count for the caller that started it. */
export function runForAll<Result>(work: () => Result): Result {
  return requesters.run(undefined, work);
}

/** The requester of the current request; undefined for work of the service. */
export function currentRequester(): Requester {
  return requesters.getStore();
}
