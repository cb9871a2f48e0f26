import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startEmbedded } from './db/embedded/start.ts';
import { migrateDatabase } from './db/migrate.ts';
import {
  configOrExit,
  requireAuth,
  SECRET_VARIABLES,
  sharedCapacityMb,
  withoutApiVariables,
} from './runtime/config.ts';
import { hideProcessMemory } from './runtime/libc.ts';
import { takeEnvironment } from './runtime/secrets.ts';
import { onShutdown } from './runtime/shutdown.ts';
import { type Limits, type Part, supervise } from './runtime/supervise.ts';

/**
 * `npm start`: everything on one machine. Postgres (the embedded one unless DATABASE_URL is set), migrations, the API
 * and one converter, each a process of its own that ends with this one, and is started again when it dies by itself.
 */
const environment = await takeEnvironment();
const config = configOrExit(environment);
requireAuth(config);
await hideProcessMemory();
/** A part that hangs is killed after half a minute. */
const LIMITS: Limits = {
  restartAfterMs: 1_000,
  checkMs: 1_000,
  maxMissedChecks: 30,
  // A part that works ends within its grace and ten seconds.
  endMs: (config.SHUTDOWN_GRACE_SECONDS + 15) * 1000,
};
const parts: Part[] = [];
let stopping = false;
let stopPostgres: (() => Promise<void>) | undefined;

onShutdown((config.SHUTDOWN_GRACE_SECONDS + 75) * 1000, async ({ err }) => {
  stopping = true;
  if (err) process.stderr.write(`sheetmill: ${err.message}\n`);
  await Promise.all(parts.map((part) => part.stop()));
  await stopPostgres?.();
});

// Started by the command line, it ends with its parent.
process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));

const url = await startAll();
process.stdout.write(`sheetmill listens on ${url}\n`);
process.send?.({ kind: 'ready', url });

/** Gives the URL of the API once everything is ready. */
async function startAll(): Promise<string> {
  const databaseUrl = config.DATABASE_URL ?? (await startPostgres());
  await migrateDatabase(databaseUrl);
  const [url] = await Promise.all([startPart('api', databaseUrl), startPart('converter', databaseUrl)]);
  return url ?? '';
}

async function startPostgres(): Promise<string> {
  const postgres = await startEmbedded(path.join(config.DATA_DIR, 'postgres'));
  stopPostgres = postgres.stop;
  postgres.exited.then(() => {
    // Nobody catches this: it ends everything.
    if (!stopping) throw new Error('the embedded Postgres ended by itself');
  });
  return postgres.url;
}

/** Starts one process and waits until it is ready; from then on it is started again whenever it ends or hangs. */
async function startPart(name: 'api' | 'converter', databaseUrl: string): Promise<string | undefined> {
  const part = supervise(name, fileURLToPath(new URL(`${name}/main.ts`, import.meta.url)), {
    env: { LOG_LEVEL: 'warn', ...process.env, CAPACITY_MEMORY_MB: sharedCapacityMb(process.env) },
    secrets: secretsOf(name, databaseUrl),
    limits: LIMITS,
    // The files that a part has loaded, for `node --watch`.
    onMessage: (message) => process.send?.(message),
    onHang: () => process.stderr.write(`sheetmill: the ${name} does not respond: it is killed and started again\n`),
  });
  parts.push(part);
  return (await part.ready).url;
}

function secretsOf(name: 'api' | 'converter', databaseUrl: string): NodeJS.ProcessEnv {
  const all = { ...environment, DATABASE_URL: databaseUrl };
  const known: NodeJS.ProcessEnv = name === 'converter' ? withoutApiVariables(all) : all;
  return Object.fromEntries(SECRET_VARIABLES.map((secret) => [secret, known[secret]]));
}
