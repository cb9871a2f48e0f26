import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { openDatabase } from './db/client.ts';
import { isMigrated, migrateDatabase } from './db/migrate.ts';
import { configOrExit, exitWithReason, requireDatabaseUrl, withoutApiVariables } from './runtime/config.ts';
import { createLogger } from './runtime/log.ts';
import { takeEnvironment } from './runtime/secrets.ts';

/**
 * `npm run migrate`: brings the database up to date and ends. With `--wait` it changes nothing, and ends when somebody
 * else has done so.
 */
const ASK_AGAIN_MS = 1_000;
const WAIT_DEADLINE_MS = 600_000;

const { values } = parseArgs({ options: { wait: { type: 'boolean', default: false } } });
const config = configOrExit(withoutApiVariables(await takeEnvironment()));
const databaseUrl = requireDatabaseUrl(config);
const log = createLogger(config.LOG_LEVEL, { process: 'migrate' });

await (values.wait ? waitUntilMigrated() : migrateDatabase(databaseUrl)).catch(exitWithReason);
log.info('the database is up to date');

async function waitUntilMigrated(): Promise<void> {
  const { db, close } = await openDatabase(databaseUrl, { name: 'sheetmill-migrate', log, max: 1 });
  log.info('waits until the database is up to date');
  const deadline = Date.now() + WAIT_DEADLINE_MS;
  // Before the first of them there is not even a table of migrations.
  while (!(await isMigrated(db).catch(() => false))) {
    if (Date.now() > deadline) throw new Error('nobody has brought the database up to date within ten minutes');
    await delay(ASK_AGAIN_MS);
  }
  await close();
}
