import { runForAll } from './requester.ts';

/** Caches the result of `load` for `ms`. Concurrent calls share one load. Errors are not cached. */
export function shareFor<Result>(ms: number, load: () => Promise<Result>): () => Promise<Result> {
  let shared: Promise<Result> | undefined;
  let expiresAt = Infinity;

  return function read() {
    if (shared === undefined || performance.now() > expiresAt) {
      expiresAt = Infinity;
      shared = runForAll(load);
      shared.then(
        () => {
          expiresAt = performance.now() + ms;
        },
        () => {
          shared = undefined;
        },
      );
    }
    return shared;
  };
}
