import { constants } from 'node:os';

/** The interruption of a command by a signal, or by a reader of its output that has exited, as `head` does. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

const controller = new AbortController();
let exitCode: number | undefined;

export function interrupt(signal: NodeJS.Signals): void {
  exitCode ??= 128 + constants.signals[signal];
  controller.abort(new Error('interrupted'));
}

/** From now on a signal aborts the result instead of killing the process. */
export function interruptSignal(): AbortSignal {
  for (const signal of SIGNALS) process.on(signal, interrupt);
  return controller.signal;
}

/** The exit code of an interrupted command; undefined if it is not interrupted. */
export function interruptCode(): number | undefined {
  return exitCode;
}
