import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url));
/** As `npm start` sets it. */
const EXEC_ARGV = ['--max-semi-space-size=2'];
/** More than Postgres gets for its own start. */
const START_DEADLINE_MS = 180_000;
const STOP_DEADLINE_MS = 60_000;
/** Settings that would lead it to what others share. */
const SHARED = /^(DATABASE_.*|REDIS_URL|STORE_URL|S3_.*|AWS_.*|API_KEYS.*|JWT_.*|WEBHOOK_.*|AUTH|HOST|SHEETMILL_.*)$/;

/** The embedded service did not start. */
export class StartError extends Error {}

/** `npm start` as a child process that shares standard output and error with this one. */
export function forkService() {
  return fork(MAIN, { execArgv: EXEC_ARGV, stdio: 'inherit' });
}

/**
 * Runs `use` with the URL of a whole service for this process alone, whose data is in `dataDir`, or in a temporary
 * folder that goes with it. However `use` ends, nothing of it is left. Throws StartError, or what `use` throws.
 */
export async function withEmbeddedService<T>(
  dataDir: string | undefined,
  signal: AbortSignal,
  use: (url: string) => Promise<T>,
): Promise<T> {
  const folder = dataDir ?? (await mkdtemp(path.join(tmpdir(), 'sheetmill-convert-')));
  const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !SHARED.test(name)));
  const child = fork(MAIN, {
    env: { LOG_LEVEL: 'error', ...environment, DATA_DIR: folder, PORT: '0', SHUTDOWN_GRACE_SECONDS: '0' },
    execArgv: EXEC_ARGV,
    // A group of its own: Ctrl-C reaches this process alone, which then ends the service in order.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  const exited = once(child, 'exit');
  let complaints = '';
  child.stderr?.on('data', (chunk) => {
    complaints = (complaints + chunk).slice(-2_000);
  });

  async function stop(): Promise<void> {
    child.kill('SIGTERM');
    // Whatever it has started notices that it is gone.
    const deadline = setTimeout(() => child.kill('SIGKILL'), STOP_DEADLINE_MS);
    await exited;
    clearTimeout(deadline);
    if (dataDir === undefined) await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }

  try {
    const deadline = setTimeout(() => child.kill('SIGTERM'), START_DEADLINE_MS);
    const url = await new Promise<string | undefined>((resolve) => {
      child.on('message', (message: { kind?: string; url?: string }) => {
        if (message.kind === 'ready') resolve(message.url);
      });
      exited.then(() => resolve(undefined));
    });
    clearTimeout(deadline);
    // One that is told to stop while it starts could leave its Postgres behind for a while: the signal counts only now.
    signal.throwIfAborted();
    if (url === undefined) throw new StartError(`the service did not start: ${lastLine(complaints)}`);
    return await use(url);
  } finally {
    await stop();
  }
}

function lastLine(complaints: string): string {
  const line = complaints.trim().split('\n').at(-1);
  return line?.replace(/^sheetmill: /, '') || 'it ended without a word';
}
