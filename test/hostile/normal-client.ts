import { fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { peakMb } from '../../bench/processes.ts';
import { report } from './figures.ts';

const MAX_DELAY_MS = 1_000;

interface Watched {
  url: string;
  key?: string;
  /** The requests of the normal client. */
  routes: string[];
  /** The API process. */
  pid: number;
}

interface Seen {
  /** The longest time that an request of the normal client took. */
  worstMs: number;
  /** The answers other than 200 to the normal client. */
  refusals: Record<string, number>;
  /** The highest resident memory of the API. */
  peakMb: number;
}

/** Runs an attack beside a normal client, reports the figures under `title`, and gives them. */
export async function underAttack(title: string, watched: Watched, attack: () => Promise<unknown>): Promise<Seen> {
  const client = await startNormalClient(watched);
  const began = performance.now();
  let outcome: unknown;
  try {
    forgetPeak(watched.pid);
    outcome = await attack();
  } catch (error) {
    client.kill();
    throw error;
  }
  const { worstMs, refusals } = await client.stop();
  const seen = { worstMs, refusals, peakMb: Math.round(peakMb(watched.pid)) };
  report(title, {
    'attackers saw': JSON.stringify(outcome),
    'worst delay ms': worstMs,
    'client refusals': JSON.stringify(refusals),
    'API peak MB': seen.peakMb,
    seconds: Math.round((performance.now() - began) / 1000),
  });
  return seen;
}

export function expectUnharmed({ worstMs, refusals }: Seen): void {
  expect({ refusals, isFast: worstMs < MAX_DELAY_MS || worstMs }).toEqual({ refusals: {}, isFast: true });
}

async function startNormalClient({ url, key = '', routes }: Watched) {
  const program = path.join(import.meta.dirname, 'normal-client-process.ts');
  const child = fork(program, [url, key, ...routes], { env: { PATH: process.env.PATH }, execArgv: [] });
  await once(child, 'message');
  return {
    kill: () => child.kill(),
    async stop(): Promise<Pick<Seen, 'worstMs' | 'refusals'>> {
      const ended = once(child, 'message');
      const exited = once(child, 'exit');
      child.send('stop');
      const [found] = await ended;
      await exited;
      return found;
    },
  };
}

/** The kernel measures the peak again from now on. */
function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}
