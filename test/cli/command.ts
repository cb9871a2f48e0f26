import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { text } from 'node:stream/consumers';

const ROOT = path.resolve(import.meta.dirname, '../..');

/** Runs the command line as a process of its own; `ended` gives what it said, and how it ended. */
export function sheetmill(args: string[], { env = {}, cwd = ROOT }: { env?: NodeJS.ProcessEnv; cwd?: string } = {}) {
  const child = spawn(process.execPath, [path.join(ROOT, 'cli/main.ts'), ...args], {
    cwd,
    env: { ...process.env, NODE_OPTIONS: '', SHEETMILL_URL: '', SHEETMILL_KEY: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)]).then(
    ([[code, signal], stdout, stderr]) => ({ code: code as number | null, signal, stdout, stderr }),
  );
  return { child, ended };
}
