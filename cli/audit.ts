import path from 'node:path';
import { openDatabase } from '../db/client.ts';
import { findEmbedded } from '../db/embedded/start.ts';
import { audit } from '../jobs/audit.ts';
import { configOrExit, exitWithReason, withoutApiVariables } from '../runtime/config.ts';
import { createLogger } from '../runtime/log.ts';
import { takeEnvironment } from '../runtime/secrets.ts';
import { readOptions } from './arguments.ts';

export const help = `Usage: sheetmill audit

Checks that the rows of a live database are consistent. Reads DATABASE_URL, or uses the running embedded Postgres in
DATA_DIR.

Exit code 0 if no inconsistencies were found, 1 otherwise.
`;

export async function run(args: string[]): Promise<number> {
  readOptions(args, {});
  const config = configOrExit(withoutApiVariables(await takeEnvironment()));
  const url = config.DATABASE_URL ?? (await findEmbedded(path.join(config.DATA_DIR, 'postgres')).catch(exitWithReason));
  const log = createLogger('warn', { process: 'audit' });
  const database = await openDatabase(url, { name: 'sheetmill-audit', log, max: 1 }).catch(exitWithReason);
  try {
    const findings = await audit(database.db);
    for (const { promise, count, examples } of findings) {
      process.stdout.write(`violated: ${promise}: ${count} times, for example ${examples.join(', ')}\n`);
    }
    if (findings.length === 0) process.stdout.write('no inconsistencies found\n');
    return findings.length === 0 ? 0 : 1;
  } finally {
    await database.close();
  }
}
