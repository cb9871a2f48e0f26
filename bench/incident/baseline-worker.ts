import { execFile } from 'node:child_process';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { promisify } from 'node:util';

/** The worker process of baseline.ts. It runs a program for each order, without a limit on memory. */

export interface Order {
  id: number;
  program: string;
  arguments: string[];
  /** For the output; removed afterwards. */
  folder: string;
}

export interface Answer {
  id: number;
  /** Why the program failed; null when it wrote pages. */
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
    // Paths differ between uploads; without them, equal problems can be counted.
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
// The parent has ended: kill the programs as well, which are in the group of this worker.
process.on('disconnect', () => process.kill(-process.pid, 'SIGKILL'));
