import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { SERVICE_ROLE } from '../../db/embedded/roles.ts';
import { query } from './query.ts';

const MAX_CLOSING_MS = 1_000;

/** Makes a database in the run's Postgres; gives its URL. */
export async function createDatabase(name: string, template = 'template1'): Promise<string> {
  await administer(`create database ${name} template ${template} owner ${SERVICE_ROLE}`);
  const url = new URL(variable('TEST_POSTGRES_URL'));
  url.pathname = `/${name}`;
  return url.href;
}

/** Creates a separate database for a test file, migrated unless `template` names another one. The caller drops it. */
export async function cloneDatabase(
  template: 'template_migrated' | 'template1' = 'template_migrated',
): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `test_${randomBytes(6).toString('hex')}`;
  const url = await createDatabase(name, template);
  return { url, drop: () => dropDatabase(name) };
}

/**
 * Drops a database once its connections are closed. A client whose connection is cut after its `end()` emits an error that
 * nothing handles, so connections are cut only if some are left after a second.
 */
async function dropDatabase(name: string): Promise<void> {
  const admin = new pg.Client({ connectionString: variable('TEST_POSTGRES_ADMIN_URL') });
  await admin.connect();
  try {
    for (const deadline = Date.now() + MAX_CLOSING_MS; Date.now() < deadline; await delay(5)) {
      const { rows } = await admin.query('select from pg_stat_activity where datname = $1 limit 1', [name]);
      if (rows.length === 0) break;
    }
    await admin.query(`drop database ${name} with (force)`);
  } finally {
    await admin.end();
  }
}

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error('the tests run under `npm test`, which starts their Postgres');
  return value;
}

const administer = (statement: string) => query(variable('TEST_POSTGRES_ADMIN_URL'), statement);
