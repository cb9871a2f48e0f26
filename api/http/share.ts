import { runForAll } from './holder.ts';

/** One result of `load` serves all calls that arrive while it loads, or within `ms` afterwards. Errors are not kept. */
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
