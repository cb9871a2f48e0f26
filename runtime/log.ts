import { type Logger, pino } from 'pino';

export type { Logger };

/** One JSON line per event on standard error; standard output is for what a person asked to see. */
export function createLogger(level: string, bindings: Record<string, unknown>): Logger {
  return pino({ level, base: bindings, serializers: { err: loggable } }, pino.destination({ fd: 2, sync: true }));
}

/** What the log keeps of an error: nothing that may hold values from a query, where a PDF's password can be among them. */
function loggable(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  // drizzle's wrapper has the parameters in its message; Postgres's own error below it is kept without its `detail`.
  if ('query' in error && 'params' in error) return { ...(loggable(error.cause) as object), query: error.query };
  const { name, message, stack, cause } = error;
  const { code } = error as { code?: unknown };
  return { type: name, message, code, stack, ...(cause !== undefined && { cause: loggable(cause) }) };
}
