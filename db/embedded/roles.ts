import type { Client } from 'pg';

/** The role of API and converters, and the name of the database that it owns. */
export const SERVICE_ROLE = 'sheetmill';
/** The superuser of the cluster. It has no password, so it cannot log in. */
export const ADMIN_ROLE = 'sheetmill_admin';

/**
 * Makes the service role an ordinary role that owns its database and everything in it. It is the superuser of a new cluster
 * and of clusters of earlier versions. Its password stays the same.
 * @param client logged in to the service's database as the service role
 */
export async function demoteServiceRole(client: Client): Promise<void> {
  const { rowCount } = await client.query('select from pg_roles where rolname = current_user and rolsuper');
  if (rowCount === 0) return;
  await client.query('begin');
  await client.query(SPLIT_ROLES);
  await client.query(TRANSFER_OWNERSHIP);
  await client.query('commit');
}

/**
 * Renames the first superuser, which stays one, and removes its password. A new role takes its old name and password. The
 * helper renames it, since a role cannot rename itself.
 */
const SPLIT_ROLES = `
  create role sheetmill_helper superuser;
  set session authorization sheetmill_helper;
  alter role ${SERVICE_ROLE} rename to ${ADMIN_ROLE};
  reset session authorization;
  drop role sheetmill_helper;
  do $$
  declare
    verifier text := (select rolpassword from pg_authid where rolname = '${ADMIN_ROLE}');
  begin
    execute format(
      'create role ${SERVICE_ROLE} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password %L',
      verifier);
  end $$;
  alter role ${ADMIN_ROLE} password null;`;

/**
 * Makes the service role the owner of the database and its objects, except those of extensions. The sequence of a column
 * follows its table. Postgres refuses REASSIGN OWNED for the first superuser.
 */
const TRANSFER_OWNERSHIP = `
  alter database ${SERVICE_ROLE} owner to ${SERVICE_ROLE};
  do $$
  declare
    statement text;
  begin
    for statement in
      with own as (
        select oid, quote_ident(nspname) as name from pg_namespace
        where nspname !~ '^pg_' and nspname not in ('information_schema', 'public')
      ), shared as (
        select * from own union all select oid, 'public' from pg_namespace where nspname = 'public'
      ), owned (kind, name, class, object) as (
        select 'schema', name, 'pg_namespace'::regclass, oid from own
        union all
        select 'table', format('%s.%I', shared.name, relname), 'pg_class', pg_class.oid
        from pg_class join shared on shared.oid = relnamespace
        where relkind in ('r', 'p', 'v', 'm', 'f') or (relkind = 'S' and not exists (
          select from pg_depend where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype in ('a', 'i')))
        union all
        select 'routine', pg_proc.oid::regprocedure::text, 'pg_proc', pg_proc.oid
        from pg_proc join shared on shared.oid = pronamespace
        union all
        select 'type', format('%s.%I', shared.name, typname), 'pg_type', pg_type.oid
        from pg_type join shared on shared.oid = typnamespace left join pg_class on pg_class.oid = typrelid
        where typtype in ('d', 'e', 'r') or relkind = 'c'
      )
      select format('alter %s %s owner to ${SERVICE_ROLE}', kind, name) from owned
      where not exists (select from pg_depend where classid = class and objid = object and deptype = 'e')
    loop
      execute statement;
    end loop;
  end $$;`;
