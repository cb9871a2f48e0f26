import type { TaskEvent } from '../run-task.ts';

const INTERVAL_MS = 100;

export interface ThrottledReport {
  (event: TaskEvent): void;
  /** Sends progress that still waits. */
  flush(): void;
}

/** Passes reports on in order, but only the latest progress within 100 ms. */
export function throttleProgress(send: (event: TaskEvent) => void): ThrottledReport {
  let waiting: TaskEvent | undefined;
  let timer: NodeJS.Timeout | undefined;
  let sentAt = Number.NEGATIVE_INFINITY;

  function flush(): void {
    clearTimeout(timer);
    timer = undefined;
    if (waiting === undefined) return;
    const event = waiting;
    waiting = undefined;
    sentAt = performance.now();
    send(event);
  }

  function report(event: TaskEvent): void {
    if (event.kind !== 'progress') {
      flush();
      send(event);
      return;
    }
    waiting = event;
    // The timers of a task that never yields do not run.
    if (performance.now() - sentAt >= INTERVAL_MS) flush();
    else timer ??= setTimeout(flush, INTERVAL_MS);
  }
  return Object.assign(report, { flush });
}
