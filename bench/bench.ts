import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

const interruption = new AbortController();
const began = performance.now();

/** Aborted when the benchmark receives a signal to stop. */
export const { signal } = interruption;

/** A temporary folder, removed at the end. */
export const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-bench-'));

/** Prints progress to standard error. Standard output is for the results. */
export function say(line: string): void {
  process.stderr.write(`bench, ${Math.round((performance.now() - began) / 1000)} s: ${line}\n`);
}

/** Runs a benchmark and cleans up. Prints the reason when it fails or is stopped. */
export async function bench(measure: () => Promise<void>): Promise<void> {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(name, () => interruption.abort(new Error(`stopped by ${name}`)));
  }
  try {
    await measure();
  } catch (error) {
    say(String(signal.aborted ? signal.reason.message : error instanceof Error ? error.stack : error));
    process.exitCode = 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
