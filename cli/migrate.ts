import { setTimeout as delay } from 'node:timers/promises';
import { openDatabase } from '../db/client.ts';
import { isMigrated, migrateDatabase } from '../db/migrate.ts';
import { configOrExit, exitWithReason, requireDatabaseUrl, withoutApiVariables } from '../runtime/config.ts';
import { createLogger, type Logger } from '../runtime/log.ts';
import { takeEnvironment } from '../runtime/secrets.ts';
import { readOptions } from './arguments.ts';

export const help = `Usage: sheetmill migrate [--wait]

Brings the database at DATABASE_URL up to date.

  --wait   change nothing: wait up to ten minutes for another process to migrate

Exit code 0 if the database is up to date, 1 otherwise.
`;

const POLL_MS = 1_000;
const WAIT_TIMEOUT_MS = 600_000;

export async function run(args: string[]): Promise<number> {
  const { wait } = readOptions(args, { wait: { type: 'boolean', default: false } });
  const config = configOrExit(withoutApiVariables(await takeEnvironment()));
  const databaseUrl = requireDatabaseUrl(config);
  const log = createLogger(config.LOG_LEVEL, { process: 'migrate' });
  await (wait ? waitUntilMigrated(databaseUrl, log) : migrateDatabase(databaseUrl)).catch(exitWithReason);
  log.info('database is up to date');
  return 0;
}

async function waitUntilMigrated(databaseUrl: string, log: Logger): Promise<void> {
  const { db, close } = await openDatabase(databaseUrl, { name: 'sheetmill-migrate', log, max: 1 });
  log.info('waiting for migrations');
  const deadline = Date.now() + WAIT_TIMEOUT_MS;
  // Before the first migration even the table of migrations is missing, which is an error.
  while (!(await isMigrated(db).catch(() => false))) {
    if (Date.now() > deadline) throw new Error('the database was not migrated within ten minutes');
    await delay(POLL_MS);
  }
  await close();
}
