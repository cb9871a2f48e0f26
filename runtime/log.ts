import { type Logger, pino } from 'pino';
import { memberOf } from './errors.ts';

export type { Logger };

/** Writes one JSON line per event to standard error. Standard output is for the results of commands. */
export function createLogger(level: string, bindings: Record<string, unknown>): Logger {
  return pino({ level, base: bindings, serializers: { err: loggable } }, pino.destination({ fd: 2, sync: true }));
}

/** The loggable part of an error: without the values of a query, which may include the password of a PDF. */
function loggable(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const cause = loggable(error.cause);
  // drizzle's wrapper has the parameters in its message; the error of Postgres below it is kept without its `detail`.
  if ('query' in error && 'params' in error) return { ...(typeof cause === 'object' && cause), query: error.query };
  const { name, message, stack } = error;
  return { type: name, message, code: memberOf(error, 'code'), stack, ...(cause !== undefined && { cause }) };
}
