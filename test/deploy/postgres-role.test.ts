import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { migrateDatabase } from '../../db/migrate.ts';
import { compose } from '../support/compose.ts';
import { hasProgram, ROOT } from '../support/programs.ts';
import { query } from '../support/query.ts';

/** The script that creates the role of the service in a Postgres container. */
const FILE = 'deploy/overlays/local/create-role.sql';
const ROLE = 'sheetmill_container';
const whenPsql = hasProgram('psql', '--version') ? test : test.skip;
const { postgres, api } = compose.services;

whenPsql(
  'the role of a new volume can migrate and has no privileges on the server (skipped without psql)',
  async () => {
    const adminUrl = process.env.TEST_POSTGRES_ADMIN_URL as string;
    const { SHEETMILL_PASSWORD } = postgres.environment;
    // The Postgres of the tests already has a role of that name.
    const input = readFileSync(path.join(ROOT, FILE), 'utf8').replaceAll(/\bsheetmill\b/g, ROLE);
    const env = { ...process.env, SHEETMILL_PASSWORD };
    try {
      execFileSync('psql', ['--no-psqlrc', '--quiet', '--set=ON_ERROR_STOP=1', adminUrl], { env, input });
      const { username, password } = new URL(api.environment.DATABASE_URL);
      expect(username).toBe('sheetmill');
      const url = Object.assign(new URL(adminUrl), { username: ROLE, password, pathname: `/${ROLE}` }).href;
      await migrateDatabase(url);
      const powers = 'rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls';
      expect(await query(url, `select ${powers} as any from pg_roles where rolname = current_user`)).toEqual([
        { any: false },
      ]);
      await expect(query(url, "copy jobs to program 'cat'")).rejects.toThrow(/permission denied/);
    } finally {
      await query(adminUrl, `drop database if exists ${ROLE} with (force)`);
      await query(adminUrl, `drop role if exists ${ROLE}`);
    }
  },
);
