import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { configOrExit, requireAuth, SECRET_VARIABLES, sharedCapacityMb, withoutApiVariables } from './config.ts';
import { startEmbedded } from './db/embedded.ts';
import { migrateDatabase } from './db/migrate.ts';
import { hideProcessMemory } from './libc.ts';
import { forkWithSecrets, takeEnvironment } from './secrets.ts';
import { onShutdown } from './shutdown.ts';

/**
 * `npm start`: everything on one machine. Postgres (the embedded one unless DATABASE_URL is set), migrations, the API
 * and one converter, each a process of its own that ends with this one, and is started again when it dies by itself.
 */
const RESTART_AFTER_MS = 1_000;

const environment = await takeEnvironment();
const config = configOrExit(environment);
requireAuth(config);
await hideProcessMemory();
const children = new Map<string, ChildProcess>();
let stopping = false;
let stopPostgres: (() => Promise<void>) | undefined;

onShutdown((config.SHUTDOWN_GRACE_SECONDS + 60) * 1000, async ({ err }) => {
  stopping = true;
  if (err) process.stderr.write(`sheetmill: ${err.message}\n`);
  await Promise.all([...children.values()].map(end));
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

/** Starts one process and waits until it is ready; from then on it is started again whenever it ends. */
async function startPart(name: 'api' | 'converter', databaseUrl: string): Promise<string | undefined> {
  const module = fileURLToPath(new URL(`${name}/main.ts`, import.meta.url));
  const child = forkWithSecrets(module, secretsOf(name, databaseUrl), {
    env: { LOG_LEVEL: 'warn', ...process.env, CAPACITY_MEMORY_MB: sharedCapacityMb(process.env) },
    // A group of its own: Ctrl-C reaches this process alone, which then ends the others in order.
    detached: true,
  });
  children.set(name, child);
  const exited = once(child, 'exit');
  const ready = Promise.withResolvers<{ url?: string } | undefined>();
  child.on('message', (message: { kind?: string; url?: string }) => {
    if (message.kind === 'ready') ready.resolve(message);
    // What a part tells `node --watch` of the files that it has loaded.
    else process.send?.(message);
  });
  exited.then(() => ready.resolve(undefined));
  const told = await ready.promise;
  if (told === undefined) throw new Error(`the ${name} did not start`);
  exited.then(() => restartPart(name, databaseUrl));
  return told.url;
}

function secretsOf(name: 'api' | 'converter', databaseUrl: string): NodeJS.ProcessEnv {
  const all = { ...environment, DATABASE_URL: databaseUrl };
  const known: NodeJS.ProcessEnv = name === 'converter' ? withoutApiVariables(all) : all;
  return Object.fromEntries(SECRET_VARIABLES.map((secret) => [secret, known[secret]]));
}

async function restartPart(name: 'api' | 'converter', databaseUrl: string): Promise<void> {
  await delay(RESTART_AFTER_MS);
  if (stopping) return;
  await startPart(name, databaseUrl).catch(() => restartPart(name, databaseUrl));
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  await exited;
}
