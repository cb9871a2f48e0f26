import { type Logger, pino } from 'pino';

export type { Logger };

/** One JSON line per event on standard error; standard output is for what a person asked to see. */
export function createLogger(level: string, bindings: Record<string, unknown>): Logger {
  return pino({ level, base: bindings, redact: ['password', '*.password'] }, pino.destination({ fd: 2, sync: true }));
}
