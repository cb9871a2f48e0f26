import type { TaskEvent } from '../run-task.ts';

const INTERVAL_MS = 100;

/**
 * Passes the reports of a task on, in order, but of the progress within 100 ms the last alone. `flush` passes on what is
 * left.
 */
export function mergeProgress(send: (event: TaskEvent) => void) {
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
    // A task that computes without a pause leaves no time to a timer.
    if (performance.now() - sentAt >= INTERVAL_MS) flush();
    else timer ??= setTimeout(flush, INTERVAL_MS);
  }
  return Object.assign(report, { flush });
}
