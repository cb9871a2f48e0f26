import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { ROOT } from '../support/programs.ts';

/** Runs the command line in a child process; `ended` resolves with its output and its exit. */
export function sheetmill(args: string[], { env = {}, cwd = ROOT }: { env?: NodeJS.ProcessEnv; cwd?: string } = {}) {
  const child = spawn(process.execPath, [path.join(ROOT, 'cli/main.ts'), ...args], {
    cwd,
    env: { ...process.env, NODE_OPTIONS: '', SHEETMILL_URL: '', SHEETMILL_KEY: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)]).then(
    ([[code, signal], stdout, stderr]) => ({ code, signal, stdout, stderr }),
  );
  return { child, ended };
}
