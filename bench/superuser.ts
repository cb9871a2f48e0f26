import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { ADMIN_ROLE, SERVICE_ROLE } from '../db/embedded/roles.ts';
import { startEmbedded } from '../db/embedded/start.ts';

/** Lets the superuser of an embedded Postgres log in without a password. No other configuration allows that. */
const RULES = `
host all,replication ${ADMIN_ROLE} all trust
host all all all scram-sha-256
`;

/** The settings of Postgres with which the superuser may log in. They name a file next to `folder`. */
export async function admitAdmin(folder: string): Promise<string[]> {
  const file = `${folder}.pg_hba.conf`;
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, RULES);
  return [`hba_file=${file}`];
}

/** The URL of the same database for the superuser. */
export function asAdmin(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  url.username = ADMIN_ROLE;
  url.password = '';
  return url.href;
}

/**
 * Starts the embedded Postgres in `folder`. Its superuser may log in at `adminUrl`, and the service role may disable
 * triggers to fill or empty tables.
 */
export async function startWithAdmin(folder: string, settings: string[]) {
  const all = [...(await admitAdmin(folder)), ...settings];
  const postgres = await startEmbedded(folder, { flags: all.flatMap((setting) => ['-c', setting]) });
  const adminUrl = asAdmin(postgres.url);
  await execute(adminUrl, `grant set on parameter session_replication_role to ${SERVICE_ROLE}`);
  return { ...postgres, adminUrl };
}

/** Lets the service role read and reset the statistics of statements. `shared_preload_libraries` must name them. */
export async function installStatistics(adminUrl: string): Promise<void> {
  await execute(
    adminUrl,
    `create extension pg_stat_statements;
     grant execute on function pg_stat_statements_reset to ${SERVICE_ROLE}`,
  );
}

async function execute(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
