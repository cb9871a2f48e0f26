import { chmod, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { admitAdmin, asAdmin } from '../../../bench/superuser.ts';
import { ADMIN_ROLE, SERVICE_ROLE } from '../../../db/embedded/roles.ts';
import { startEmbedded } from '../../../db/embedded/start.ts';
import { migrateDatabase } from '../../../db/migrate.ts';
import { cloneDatabase } from '../../support/database.ts';
import { query } from '../../support/query.ts';

const PRIVILEGES = ['rolsuper', 'rolcreatedb', 'rolcreaterole', 'rolreplication', 'rolbypassrls'];

let folder: string;
let database: Awaited<ReturnType<typeof cloneDatabase>>;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-roles-'));
  database = await cloneDatabase();
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const privilegesOf = async (url: string) =>
  (await query(url, `select ${PRIVILEGES} from pg_roles where rolname = current_user`))[0];
const NO_PRIVILEGES = Object.fromEntries(PRIVILEGES.map((privilege) => [privilege, false]));

test('the service role has no privileges on the cluster and is a member of no role', async () => {
  expect(await privilegesOf(database.url)).toEqual(NO_PRIVILEGES);
  const memberships = `select roleid::regrole from pg_auth_members where member = current_user::regrole`;
  expect(await query(database.url, memberships)).toEqual([]);
});

test.each([
  "copy jobs to program 'cat'",
  "copy jobs from program 'id'",
  "copy jobs to '/tmp/sheetmill-stolen'",
  "select pg_read_file('postmaster.pid')",
  "select pg_ls_dir('.')",
  "select lo_import('/etc/passwd')",
  "alter system set log_statement = 'all'",
  'create role intruder superuser',
  'create database intruder',
  `alter role ${SERVICE_ROLE} superuser`,
  `set role ${ADMIN_ROLE}`,
  `set session authorization ${ADMIN_ROLE}`,
  'select rolpassword from pg_authid',
  'select pg_reload_conf()',
  "create function intrude() returns int language c as 'libc', 'system'",
  'create subscription intruder connection $$$$ publication intruder',
])('Postgres refuses the service role: %s', async (statement) => {
  await expect(query(database.url, statement)).rejects.toThrow(/permission denied|must be (superuser|able)/);
});

/** The objects of the database that the service role does not own, except those of extensions. */
const FOREIGN = `
  with objects (class, object, owner, namespace, name) as (
    select 'pg_namespace'::regclass, oid, nspowner, oid, nspname::text from pg_namespace where nspname <> 'public'
    union all select 'pg_class', oid, relowner, relnamespace, relname from pg_class
    union all select 'pg_proc', oid, proowner, pronamespace, proname from pg_proc
    union all select 'pg_type', oid, typowner, typnamespace, typname from pg_type
  )
  select objects.name from objects join pg_namespace on pg_namespace.oid = namespace
  where nspname !~ '^pg_' and nspname <> 'information_schema' and owner <> '${SERVICE_ROLE}'::regrole
    and not exists (select from pg_depend where classid = class and objid = object and deptype = 'e')`;

/** Starts Postgres in a new folder with the single role of earlier versions, a superuser. */
async function startAsEarlierVersion(dir: string) {
  const rules = await admitAdmin(dir);
  const postgres = await startEmbedded(dir, { flags: rules.flatMap((rule) => ['-c', rule]) });
  await query(
    asAdmin(postgres.url),
    `alter database ${SERVICE_ROLE} owner to ${ADMIN_ROLE};
     drop role ${SERVICE_ROLE};
     create role helper superuser;
     set session authorization helper;
     alter role ${ADMIN_ROLE} rename to ${SERVICE_ROLE};
     reset session authorization;
     drop role helper;
     alter role ${SERVICE_ROLE} password '${new URL(postgres.url).password}'`,
  );
  return postgres;
}

test('a folder of an earlier version keeps its data and password, and its role is demoted', async () => {
  const dir = path.join(folder, 'earlier');
  const earlier = await startAsEarlierVersion(dir);
  expect(await privilegesOf(earlier.url)).toMatchObject({ rolsuper: true });
  await migrateDatabase(earlier.url);
  await query(
    earlier.url,
    `create schema "Own Schema";
     create type "Own Schema".pair as (a int, b int);
     create domain "Own Schema".small as int check (value < 10);
     create table "Own Schema"."Kept Table" (id bigint generated always as identity, n serial, word text);
     create table parts (n int) partition by range (n);
     create table parts_low partition of parts for values from (0) to (10);
     create view seen as select word from "Own Schema"."Kept Table";
     create sequence numbers owned by none;
     create aggregate total(int) (sfunc = int4pl, stype = int);
     create procedure nothing(in text) language sql as '';
     insert into "Own Schema"."Kept Table" (word) values ('kept')`,
  );
  await chmod(dir, 0o755);
  await earlier.stop();

  const now = await startEmbedded(dir);
  try {
    expect(new URL(now.url).password).toBe(new URL(earlier.url).password);
    expect(await privilegesOf(now.url)).toEqual(NO_PRIVILEGES);
    expect(await query(now.url, FOREIGN)).toEqual([]);
    expect(await query(now.url, 'select word from seen')).toEqual([{ word: 'kept' }]);
    await migrateDatabase(now.url);
    await query(now.url, 'alter table jobs add column later int; drop schema "Own Schema" cascade; drop table parts');
    expect((await stat(dir)).mode & 0o777).toBe(0o750);
    for (const password of ['', new URL(now.url).password]) {
      const url = Object.assign(new URL(asAdmin(now.url)), { password }).href;
      await expect(query(url, 'select 1')).rejects.toThrow(/password/);
    }
  } finally {
    await now.stop();
  }
});

test('a new folder is private, requires passwords and has a superuser that cannot log in', async () => {
  const dir = path.join(folder, 'new');
  const postgres = await startEmbedded(dir);
  try {
    const modes = ['', 'password', 'postgres.log', 'data'].map(async (name) => (await stat(path.join(dir, name))).mode);
    expect((await Promise.all(modes)).map((mode) => mode & 0o777)).toEqual([0o700, 0o600, 0o600, 0o700]);
    const rules = (await readFile(path.join(dir, 'data/pg_hba.conf'), 'utf8'))
      .split('\n')
      .filter((line) => /^\w/.test(line));
    expect(rules.length).toBeGreaterThan(2);
    expect(rules.filter((rule) => !/\sscram-sha-256$/.test(rule))).toEqual([]);
    expect(await privilegesOf(postgres.url)).toEqual(NO_PRIVILEGES);
    for (const user of [ADMIN_ROLE, 'postgres', SERVICE_ROLE]) {
      const url = Object.assign(new URL(postgres.url), { username: user, password: 'guess' }).href;
      await expect(query(url, 'select 1')).rejects.toThrow(/password authentication failed/);
    }
  } finally {
    await postgres.stop();
  }
});
