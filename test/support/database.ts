import { randomBytes } from 'node:crypto';
import pg from 'pg';

/** Makes a database in the run's Postgres; gives its URL. */
export async function createDatabase(name: string, template = 'template1'): Promise<string> {
  await administer(`create database ${name} template ${template}`);
  const url = new URL(serverUrl());
  url.pathname = `/${name}`;
  return url.href;
}

/** A database of its own for a test file, migrated unless `template` says otherwise. `drop` it when done. */
export async function cloneDatabase(
  template: 'template_migrated' | 'template1' = 'template_migrated',
): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `test_${randomBytes(6).toString('hex')}`;
  const url = await createDatabase(name, template);
  return { url, drop: () => administer(`drop database ${name} with (force)`) };
}

function serverUrl(): string {
  const url = process.env.TEST_POSTGRES_URL;
  if (url === undefined) throw new Error('the tests run under `npm test`, which starts their Postgres');
  return url;
}

async function administer(statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl() });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
