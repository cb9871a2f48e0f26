import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { embeddedUrl } from '../../db/embedded/start.ts';

const START_MS = 30_000;

/** Runs a command as the user `nobody`, like the embedded Postgres, and ends it with this process. */
const AS_NOBODY = [
  ...['setpriv', '--pdeathsig=QUIT', '--reuid=65534', '--regid=65534', '--clear-groups'],
  ...['--securebits=+no_setuid_fixup', '--inh-caps=+dac_override', '--ambient-caps=+dac_override', '--'],
];

/**
 * Starts Postgres in `folder`, which a stopped embedded Postgres has created, on `host` and with more settings. `enter` is
 * put before its command, to start it elsewhere.
 */
export async function startPostgres(
  folder: string,
  { host = '127.0.0.1', settings = [], enter = [] }: { host?: string; settings?: string[]; enter?: string[] } = {},
) {
  const data = path.join(folder, 'data');
  const password = (await readFile(path.join(folder, 'password'), 'utf8')).trim();
  // Postgres itself notes how it was started.
  const [program = ''] = (await readFile(path.join(data, 'postmaster.opts'), 'utf8')).split(' ');
  const port = await freePort();
  const own = [`listen_addresses=${host}`, `port=${port}`, 'unix_socket_directories=', 'fsync=off', ...settings];
  const options = ['-D', data, ...own.flatMap((setting) => ['-c', setting])];
  const [command = '', ...before] = [...enter, ...(process.getuid?.() === 0 ? AS_NOBODY : []), program];
  let child: ChildProcess;

  async function start(): Promise<void> {
    for (const deadline = Date.now() + START_MS; ; await delay(100)) {
      child = spawn(command, [...before, ...options], { stdio: ['ignore', 'ignore', 'pipe'] });
      let log = '';
      const started = await new Promise<boolean>((resolve) => {
        child.stderr?.on('data', (chunk) => {
          log = (log + chunk).slice(-2_000);
          if (/ready to accept (read-only )?connections/.test(log)) resolve(true);
        });
        child.once('exit', () => resolve(false));
      });
      if (started) return;
      // Processes of one that was killed take a moment to notice.
      if (Date.now() > deadline) throw new Error(`postgres did not start: ${log}`);
    }
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  await start();
  return {
    url: embeddedUrl(password, port).replace('127.0.0.1', host),
    get pid(): number {
      return child.pid as number;
    },
    start,
    kill: () => end('SIGKILL'),
    stop: () => end('SIGINT'),
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await once(server.close(), 'close');
  return port;
}
