import { constants } from 'node:os';

/** The interruption of a command by a signal, or by a reader of its output that has exited, as `head` does. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

let exitCode: number | undefined;

/** Handles the signals from now on: the first one aborts the result. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController();
  const interrupt = (signal: NodeJS.Signals) => {
    exitCode ??= 128 + constants.signals[signal];
    controller.abort(new Error('interrupted'));
  };
  for (const signal of SIGNALS) process.on(signal, () => interrupt(signal));
  process.stdout.on('error', () => interrupt('SIGPIPE'));
  return controller.signal;
}

/** The exit code of an interrupted command; undefined while it is not interrupted. */
export function interruptCode(): number | undefined {
  return exitCode;
}
