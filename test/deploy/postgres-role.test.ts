import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseAllDocuments } from 'yaml';
import { migrateDatabase } from '../../db/migrate.ts';
import { compose } from '../support/compose.ts';
import { hasProgram, ROOT } from '../support/programs.ts';
import { query } from '../support/query.ts';
import type { Json } from '../support/service.ts';

/** The role that Postgres gets where it runs in a container. */
const FILE = 'deploy/overlays/local/create-role.sql';
const ROLE = 'sheetmill_container';
const whenPsql = hasProgram('psql', '--version') ? test : test.skip;
const { postgres, api } = compose.services;

whenPsql(
  'a new volume gets a role without power over the server, which can migrate (skipped without psql)',
  async () => {
    const adminUrl = process.env.TEST_POSTGRES_ADMIN_URL as string;
    const { SHEETMILL_PASSWORD } = postgres.environment;
    // In the run's Postgres the role of that name is there already.
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

test('Compose and the local overlay start Postgres with a superuser that the service does not use', () => {
  expect(postgres.volumes).toContain(`./${FILE}:/docker-entrypoint-initdb.d/create-role.sql:ro`);
  expect(postgres.environment).not.toHaveProperty('POSTGRES_USER');
  expect(postgres.environment.POSTGRES_PASSWORD).not.toBe(postgres.environment.SHEETMILL_PASSWORD);
  const file = readFileSync(path.join(ROOT, 'deploy/overlays/local/postgres.yaml'), 'utf8');
  const [set]: Json[] = parseAllDocuments(file).map((document) => document.toJS());
  const [container] = set.spec.template.spec.containers;
  expect(container).not.toHaveProperty('env');
  expect(container.volumeMounts).toContainEqual({ name: 'create-role', mountPath: '/docker-entrypoint-initdb.d' });
});
