import { UsageError } from './arguments.ts';
import { ProblemError, UnreachableError } from './client.ts';
import { StartError } from './embedded-service.ts';

/** What scripts may rely on; `sheetmill --help` says the same. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return 2;
  if (error instanceof UnreachableError || error instanceof StartError) return 3;
  if (error instanceof ProblemError && (error.status === 401 || error.status === 403)) return 4;
  return 1;
}

/** An error as `--json` shows it: with the service's own code, or the system's, or one of ours. */
export function failureOf(error: unknown): { code: string; message: string } {
  const { message, code } = error as { message: string; code?: unknown };
  if (error instanceof UnreachableError || error instanceof StartError) return { code: 'unreachable', message };
  return { code: typeof code === 'string' ? code : 'internal', message };
}
