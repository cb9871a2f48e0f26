import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

const interruption = new AbortController();
const began = performance.now();

/** Ends what a benchmark waits for, once it is told to stop. */
export const { signal } = interruption;

/** A folder of its own, which goes with it. */
export const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-bench-'));

/** Tells what goes on, beside the figures, which go to standard output. */
export function say(line: string): void {
  process.stderr.write(`bench, ${Math.round((performance.now() - began) / 1000)} s: ${line}\n`);
}

/** Runs a benchmark; when it fails or is told to stop, it says why, and cleans up. */
export async function bench(measure: () => Promise<void>): Promise<void> {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(name, () => interruption.abort(new Error(`stopped by ${name}`)));
  }
  try {
    await measure();
  } catch (error) {
    say(String(signal.aborted ? signal.reason.message : (error as Error).stack));
    process.exitCode = 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
