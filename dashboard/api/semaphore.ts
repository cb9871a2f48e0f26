/** Runs at most `max` tasks at a time, first come, first served. Tasks that were aborted while they waited are skipped. */
export function createSemaphore(max: number) {
  const waiting: (() => void)[] = [];
  let free = max;

  return async function inTurn<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      signal.throwIfAborted();
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free++;
      else next();
    }
  };
}
