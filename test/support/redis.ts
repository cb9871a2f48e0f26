import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { freePort, hasProgram } from './programs.ts';

/** True if this machine has a redis-server. Tests that need it are skipped otherwise. */
export const hasRedis = hasProgram('redis-server', '--version');

/** Starts a separate Redis that saves its data on request. `stop` ends and removes it. */
export async function startRedis() {
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-redis-'));
  const port = await freePort();
  let child: ChildProcess;

  async function start(): Promise<void> {
    child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '1 1'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    for await (const chunk of child.stdout ?? []) if (String(chunk).includes('Ready to accept connections')) break;
    child.stdout?.resume();
  }

  async function kill(): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    start,
    kill,
    pause: () => child.kill('SIGSTOP'),
    resume: () => child.kill('SIGCONT'),
    async stop(): Promise<void> {
      await kill();
      await rm(folder, { recursive: true });
    },
  };
}
