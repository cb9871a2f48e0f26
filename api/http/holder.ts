import { AsyncLocalStorage } from 'node:async_hooks';
import type { ServerResponse } from 'node:http';
import type { Requester } from '../../runtime/quota.ts';
import type { Caller } from './admission.ts';

const holders = new AsyncLocalStorage<Requester>();

/** Under whose name a caller takes room. */
export function holderOf({ countedAs }: Caller): Requester {
  return countedAs;
}

/** Gives room back once the response is closed, which it may be already. */
export function giveOnClose(response: ServerResponse, give: () => void): void {
  if (response.destroyed) give();
  else response.once('close', give);
}

/** Runs `work` for a holder: its queries take turns under this name. */
export function runFor<Result>(holder: Requester, work: () => Result): Result {
  return holders.run(holder, work);
}

/** Runs what is done for many callers at once, so that the first of them does not count as its holder. */
export function runForAll<Result>(work: () => Result): Result {
  return holders.run(undefined, work);
}

/** The holder that the current request runs for; undefined for the work of the service itself. */
export function currentHolder(): Requester {
  return holders.getStore();
}
