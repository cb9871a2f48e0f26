import { parseArgs } from 'node:util';
import { configOrExit, exitWithReason, requireDatabaseUrl } from './config.ts';
import { openDatabase } from './db/client.ts';
import { isMigrated, migrateDatabase } from './db/migrate.ts';
import { createLogger } from './log.ts';

/**
 * `npm run migrate`: brings the database up to date and ends. With `--wait` it changes nothing, and ends when somebody
 * else has. Waits a minute for Postgres.
 */
const WAIT_MS = 1_000;

const { values } = parseArgs({ options: { wait: { type: 'boolean', default: false } } });
const config = configOrExit(process.env);
const databaseUrl = requireDatabaseUrl(config);
const log = createLogger(config.LOG_LEVEL, { process: 'migrate' });
const { db, close } = await openDatabase(databaseUrl, { name: 'sheetmill-migrate', log, max: 1 }).catch(exitWithReason);
if (values.wait) {
  // Before the first of them there is not even a table of migrations.
  while (!(await isMigrated(db).catch(() => false))) await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
  log.info('the database is up to date');
} else {
  await migrateDatabase(databaseUrl);
  log.info('the database was brought up to date');
}
await close();
