import { AppError } from '../runtime/errors.ts';

/**
 * Turns of which `most` are taken at a time; others wait for theirs in the order in which they came, and who has waited
 * `patienceMs` is refused. Each turn is a function that gives it back, to be called once.
 */
export function createTurns(most: number, patienceMs: number) {
  const waiting = new Set<() => void>();
  let free = most;

  function giveBack(): void {
    const [next] = waiting;
    if (next === undefined) free++;
    else {
      waiting.delete(next);
      next();
    }
  }

  return async function takeTurn(): Promise<() => void> {
    if (free > 0) {
      free--;
      return giveBack;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    waiting.add(resolve);
    const timer = setTimeout(() => {
      waiting.delete(resolve);
      reject(new AppError('unavailable', 'too much is being received: send it again later', { status: 503 }));
    }, patienceMs);
    await promise.finally(() => clearTimeout(timer));
    return giveBack;
  };
}
