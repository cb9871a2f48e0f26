import { randomBytes } from 'node:crypto';
import { SERVICE_ROLE } from '../../db/embedded/roles.ts';
import { query } from './query.ts';

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
  return { url, drop: async () => void (await administer(`drop database ${name} with (force)`)) };
}

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error('the tests run under `npm test`, which starts their Postgres');
  return value;
}

const administer = (statement: string) => query(variable('TEST_POSTGRES_ADMIN_URL'), statement);
