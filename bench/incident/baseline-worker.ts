import { execFile } from 'node:child_process';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { promisify } from 'node:util';

/** The worker process of baseline.ts: for each order it runs a program. It knows nothing of memory. */

export interface Order {
  id: number;
  program: string;
  arguments: string[];
  /** For the output; removed afterwards. */
  folder: string;
}

export interface Answer {
  id: number;
  /** What the program complained about; null if there are pages. */
  problem: string | null;
}

const TIMEOUT_MS = 300_000;

const run = promisify(execFile);

async function convert(order: Order): Promise<string | null> {
  try {
    await mkdir(order.folder, { recursive: true });
    await run(order.program, order.arguments, { timeout: TIMEOUT_MS, killSignal: 'SIGKILL' });
    return (await readdir(order.folder)).length > 0 ? null : 'no pages';
  } catch (error) {
    const { killed, code, signal, stderr } = error as { [name: string]: unknown };
    if (killed) return `took longer than ${TIMEOUT_MS / 1000} s`;
    // Paths differ from one upload to the next; without them, equal complaints can be counted.
    return `ended with ${signal ?? code}: ${String(stderr)
      .split('\n')[0]
      ?.replaceAll(/\S*\/\S*/g, '')}`;
  } finally {
    await rm(order.folder, { recursive: true, force: true });
  }
}

process.on('message', async (order: Order) => {
  const answer: Answer = { id: order.id, problem: await convert(order) };
  process.send?.(answer);
});
// Whoever started it is gone: the programs end with it, since they are of its group.
process.on('disconnect', () => process.kill(-process.pid, 'SIGKILL'));
