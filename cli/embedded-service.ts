import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { StartError } from './errors.ts';

const MAIN = fileURLToPath(new URL('./main.ts', import.meta.url));
/** Longer than the timeout for the start of Postgres. */
const START_TIMEOUT_MS = 180_000;
const STOP_TIMEOUT_MS = 60_000;
/** Settings that would connect the embedded service to shared systems. */
const SHARED = /^(DATABASE_.*|REDIS_URL|STORE_URL|S3_.*|AWS_.*|API_KEYS.*|JWT_.*|WEBHOOK_.*|AUTH|HOST|SHEETMILL_.*)$/;

/**
 * Runs `use` with the URL of a separate whole service, whose data is in `dataDir` or in a temporary folder that is removed.
 * The service is stopped afterwards. Throws StartError, or the error of `use`.
 */
export async function withEmbeddedService<T>(
  dataDir: string | undefined,
  signal: AbortSignal,
  use: (url: string) => Promise<T>,
): Promise<T> {
  const folder = dataDir ?? (await mkdtemp(path.join(tmpdir(), 'sheetmill-convert-')));
  const child = forkService(folder);
  const exited = once(child, 'exit');
  try {
    const url = await untilReady(child, exited);
    // A service that is stopped while it starts may leave its Postgres behind for a while, so the signal is ignored till now.
    signal.throwIfAborted();
    return await use(url);
  } finally {
    child.kill('SIGTERM');
    // The processes of a killed service notice its end.
    const deadline = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(deadline);
    if (dataDir === undefined) await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }
}

function forkService(folder: string): ChildProcess {
  const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !SHARED.test(name)));
  return fork(MAIN, ['serve'], {
    env: { LOG_LEVEL: 'error', ...environment, DATA_DIR: folder, PORT: '0', SHUTDOWN_GRACE_SECONDS: '0' },
    // In a separate process group Ctrl-C does not reach the service, so that this process stops it in order.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
}

/** Resolves with the URL of the service. */
async function untilReady(child: ChildProcess, exited: Promise<unknown>): Promise<string> {
  let output = '';
  child.stderr?.on('data', (chunk) => {
    output = (output + chunk).slice(-2_000);
  });
  const deadline = setTimeout(() => child.kill('SIGTERM'), START_TIMEOUT_MS);
  const url = await new Promise<string | undefined>((resolve) => {
    child.on('message', (message: { kind?: string; url?: string }) => {
      if (message.kind === 'ready') resolve(message.url);
    });
    void exited.then(() => resolve(undefined));
  });
  clearTimeout(deadline);
  if (url === undefined) throw new StartError(`the service did not start: ${lastLine(output)}`);
  return url;
}

function lastLine(output: string): string {
  const line = output.trim().split('\n').at(-1);
  return line?.replace(/^sheetmill: /, '') || 'it exited without output';
}
