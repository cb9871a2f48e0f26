import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';

/** For `--import`: halves the start time of our processes. */
export const QUICK_IMPORTS = path.join(import.meta.dirname, 'quick-imports.ts');

export const ROOT = path.resolve(import.meta.dirname, '../..');

/** True if this machine has a program. Tests that need it are skipped otherwise. */
export function hasProgram(name: string, ...args: string[]): boolean {
  return spawnSync(name, args, { stdio: 'ignore' }).status === 0;
}

/** The path of a program, as a shell would find it; undefined if there is none. */
export function findProgram(name: string): string | undefined {
  const places = (process.env.PATH ?? '').split(path.delimiter).map((folder) => path.join(folder, name));
  return places.find((place) => existsSync(place));
}

/** A port on which nothing listens at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

export interface Program {
  child: ChildProcess;
  /** The exit code and signal, once the program has ended. */
  exited: Promise<[code: number | null, signal: NodeJS.Signals | null]>;
  /** The output so far. */
  output(): string;
  /** Ends the program, unless it has ended, and waits for its end. */
  end(signal?: NodeJS.Signals): Promise<[code: number | null, signal: NodeJS.Signals | null]>;
}

/** Runs a command as a container would: in its folder, with only this environment. The caller ends it. */
export function run([command = '', ...args]: string[], { cwd = ROOT, env }: { cwd?: string; env: NodeJS.ProcessEnv }) {
  const PATH = `${path.dirname(process.execPath)}:${process.env.PATH}`;
  const child = spawn(command, args, { cwd, env: { PATH, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  const exited = once(child, 'close') as Program['exited'];
  return {
    child,
    exited,
    output: () => output,
    end(signal: NodeJS.Signals = 'SIGTERM') {
      child.kill(signal);
      return exited;
    },
  } satisfies Program;
}
