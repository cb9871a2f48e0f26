import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, readFile, readlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { startEmbedded } from '../../db/embedded.ts';

const PORT = 5432;
const START_MS = 30_000;

/** As db/embedded.ts leaves root, and so that it ends with this process. */
const AS_NOBODY = [
  'setpriv --pdeathsig=QUIT --reuid=65534 --regid=65534 --clear-groups',
  '--securebits=+no_setuid_fixup --inh-caps=+dac_override --ambient-caps=+dac_override --',
]
  .join(' ')
  .split(' ');

/**
 * A Postgres in `folder` that the hosts of a network can reach, at `address`; `enter` stands before its command. Its cluster
 * is made as the embedded Postgres makes its own.
 */
export async function startPostgresOn(address: string, enter: string[], folder: string) {
  await chmod(folder, 0o755);
  const embedded = await startEmbedded(path.join(folder, 'postgres'));
  const url = new URL(embedded.url);
  url.host = `${address}:${PORT}`;
  const data = path.join(folder, 'postgres', 'data');
  const pid = Number.parseInt(await readFile(path.join(data, 'postmaster.pid'), 'utf8'), 10);
  const program = await readlink(`/proc/${pid}/exe`);
  await embedded.stop();
  const rules = path.join(folder, 'pg_hba.conf');
  await writeFile(rules, 'host all all all scram-sha-256\n');

  const [command = '', ...before] = [...enter, ...AS_NOBODY];
  const settings = [
    `listen_addresses=${address}`,
    `port=${PORT}`,
    `hba_file=${rules}`,
    'unix_socket_directories=',
    'fsync=off',
  ];
  let child: ChildProcess;

  async function start(): Promise<void> {
    for (const deadline = Date.now() + START_MS; ; await delay(100)) {
      child = spawn(command, [...before, program, '-D', data, ...settings.flatMap((setting) => ['-c', setting])], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let log = '';
      const started = await new Promise<boolean>((resolve) => {
        child.stderr?.on('data', (chunk) => {
          log = (log + chunk).slice(-2_000);
          if (log.includes('ready to accept connections')) resolve(true);
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
  return { url: url.href, start, kill: () => end('SIGKILL'), stop: () => end('SIGINT') };
}
