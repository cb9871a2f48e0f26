import { once } from 'node:events';
import { constants } from 'node:os';
import { readArguments, UsageError } from './arguments.ts';
import { forkService } from './embedded-service.ts';

export const help = `Usage: sheetmill serve

Runs the whole service on this machine, as npm start does: with the same output, and configured by the same environment
variables (PORT, DATA_DIR, DATABASE_URL and the others of README.md). Ctrl-C stops it; the exit code is its own.
`;

export async function run(args: string[], signal: AbortSignal): Promise<number> {
  const { positionals } = readArguments(args, {});
  if (positionals.length > 0) throw new UsageError('serve takes no arguments: environment variables configure it');
  const child = forkService();
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  signal.addEventListener('abort', () => child.kill('SIGTERM'));
  const [code, killed] = await exited;
  return code ?? 128 + constants.signals[killed as NodeJS.Signals];
}
