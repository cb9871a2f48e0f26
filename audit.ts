import path from 'node:path';
import { auditAll } from './conversion/audit.ts';
import { openDatabase } from './db/client.ts';
import { findEmbedded } from './db/embedded/start.ts';
import { configOrExit, exitWithReason, withoutApiVariables } from './runtime/config.ts';
import { createLogger } from './runtime/log.ts';
import { takeEnvironment } from './runtime/secrets.ts';

/** `npm run audit`: checks a live database; prints what is wrong with it and ends with 1, or says that all is well. */
const config = configOrExit(withoutApiVariables(await takeEnvironment()));
const url = config.DATABASE_URL ?? (await findEmbedded(path.join(config.DATA_DIR, 'postgres')).catch(exitWithReason));
const log = createLogger('warn', { process: 'audit' });
const database = await openDatabase(url, { name: 'sheetmill-audit', log, max: 1 }).catch(exitWithReason);
try {
  const findings = await auditAll(database.db);
  for (const { invariant, count, examples } of findings) {
    process.stdout.write(`broken: ${invariant}: ${count}, such as ${examples.join(', ')}\n`);
  }
  if (findings.length === 0) process.stdout.write('all is well\n');
  process.exitCode = findings.length === 0 ? 0 : 1;
} finally {
  await database.close();
}
