import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startEmbedded } from '../db/embedded/start.ts';
import { migrateDatabase } from '../db/migrate.ts';
import {
  type Config,
  configOrExit,
  requireAuth,
  SECRET_VARIABLES,
  sharedCapacityMb,
  withoutApiVariables,
} from '../runtime/config.ts';
import { hideProcessMemory } from '../runtime/libc.ts';
import { takeEnvironment } from '../runtime/secrets.ts';
import { onShutdown } from '../runtime/shutdown.ts';
import { type Part, type PartLimits, supervise } from '../runtime/supervise.ts';
import { readOptions } from './arguments.ts';

export const help = `Usage: sheetmill serve

Runs the whole service on this machine, as npm start does: Postgres (embedded unless DATABASE_URL is set), migrations,
the API and one converter. Environment variables configure it (PORT, DATA_DIR, DATABASE_URL and the others in the
documentation). Ctrl-C stops it.

Exit code 0 after a signal, 1 after an error.
`;

/** A small young generation saves memory in each part and is not slower. */
const PART_FLAGS = ['--max-semi-space-size=2'];

/** Never settles: the shutdown ends the process. Errors stay uncaught, because an uncaught error shuts the service down. */
export async function run(args: string[]): Promise<never> {
  readOptions(args, {});
  const environment = await takeEnvironment();
  const config = configOrExit(environment);
  requireAuth(config);
  await hideProcessMemory();
  const launcher = new Launcher(config, environment);
  onShutdown((config.SHUTDOWN_GRACE_SECONDS + 75) * 1000, async ({ err }) => {
    if (err) process.stderr.write(`sheetmill: ${err.message}\n`);
    await launcher.stop();
  });
  // A service that was started by `sheetmill convert` ends with it.
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));

  void launcher.start().then(announce, (error) => {
    // A part that is stopped while it starts reports an error that means nothing.
    if (!launcher.isStopping) throw error;
  });
  return new Promise(() => undefined);
}

function announce(url: string): void {
  process.stdout.write(`sheetmill listens on ${url}\n`);
  process.send?.({ kind: 'ready', url });
}

/** Starts the service as child processes, and restarts API and converter when they exit or hang. */
class Launcher {
  readonly #config: Config;
  /** All variables, with the secrets that `process.env` no longer has. */
  readonly #environment: NodeJS.ProcessEnv;
  readonly #limits: PartLimits;
  readonly #parts: Part[] = [];
  #stopPostgres: (() => Promise<void>) | undefined;
  isStopping = false;

  constructor(config: Config, environment: NodeJS.ProcessEnv) {
    this.#config = config;
    this.#environment = environment;
    this.#limits = {
      restartAfterMs: 1_000,
      checkMs: 1_000,
      maxMissedChecks: 30,
      // A healthy part ends within its grace period and ten seconds.
      endMs: (config.SHUTDOWN_GRACE_SECONDS + 15) * 1000,
    };
  }

  /** Resolves with the URL of the API when every process is ready. */
  async start(): Promise<string> {
    const databaseUrl = this.#config.DATABASE_URL ?? (await this.#startPostgres());
    await migrateDatabase(databaseUrl);
    const [url] = await Promise.all([this.#startPart('api', databaseUrl), this.#startPart('converter', databaseUrl)]);
    return url ?? '';
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await Promise.all(this.#parts.map((part) => part.stop()));
    await this.#stopPostgres?.();
  }

  async #startPostgres(): Promise<string> {
    const postgres = await startEmbedded(path.join(this.#config.DATA_DIR, 'postgres'));
    this.#stopPostgres = postgres.stop;
    void postgres.exited.then(() => {
      if (!this.isStopping) throw new Error('the embedded Postgres exited unexpectedly');
    });
    return postgres.url;
  }

  async #startPart(name: 'api' | 'converter', databaseUrl: string): Promise<string | undefined> {
    const part = supervise(name, fileURLToPath(new URL(`../${name}/main.ts`, import.meta.url)), {
      env: { LOG_LEVEL: 'warn', ...process.env, CAPACITY_MEMORY_MB: sharedCapacityMb(process.env) },
      execArgv: [...process.execArgv, ...PART_FLAGS],
      secrets: this.#secretsOf(name, databaseUrl),
      limits: this.#limits,
      // `node --watch` learns from these messages which files a part has loaded.
      onMessage: (message) => process.send?.(message),
      onHang: () => process.stderr.write(`sheetmill: the ${name} does not respond, restarting it\n`),
    });
    this.#parts.push(part);
    return (await part.ready).url;
  }

  #secretsOf(name: 'api' | 'converter', databaseUrl: string): NodeJS.ProcessEnv {
    const all = { ...this.#environment, DATABASE_URL: databaseUrl };
    const known: NodeJS.ProcessEnv = name === 'converter' ? withoutApiVariables(all) : all;
    return Object.fromEntries(SECRET_VARIABLES.map((secret) => [secret, known[secret]]));
  }
}
