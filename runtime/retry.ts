import { setTimeout as delay } from 'node:timers/promises';

export interface Backoff {
  initialMs: number;
  maxMs: number;
}

/**
 * Calls `work` until it succeeds. `onFailure` throws to give up, and otherwise returns how long to wait before the next
 * call: `backoffMs`, which doubles with each failure, or a time that it knows better.
 */
export async function retry<Result>(
  work: () => Promise<Result>,
  { initialMs, maxMs }: Backoff,
  onFailure: (error: unknown, backoffMs: number) => number,
  signal?: AbortSignal,
): Promise<Result> {
  for (let backoffMs = initialMs; ; backoffMs = Math.min(backoffMs * 2, maxMs)) {
    try {
      return await work();
    } catch (error) {
      await delay(onFailure(error, backoffMs), undefined, { signal });
    }
  }
}
