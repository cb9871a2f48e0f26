import { getTableColumns, type InferInsertModel, type SQL, sql } from 'drizzle-orm';
import type { PgTable } from 'drizzle-orm/pg-core';
import { memberOf } from '../runtime/errors.ts';
import type { Queryable } from './client.ts';

type Rows<Table extends PgTable> = { [Key in keyof InferInsertModel<Table>]?: unknown }[];

/** Inserts many rows, all with the same columns. */
export async function insertRows<Table extends PgTable>(db: Queryable, table: Table, rows: Rows<Table>): Promise<void> {
  if (rows.length > 0) await db.execute(insertOf(table, rows));
}

/**
 * The statement that inserts many rows, all with the same columns. It has one JSON parameter: building a statement of
 * 30,000 parameters takes longer than Postgres needs to run it.
 */
export function insertOf<Table extends PgTable>(table: Table, rows: Rows<Table>): SQL {
  const first = rows[0] ?? {};
  const columns = Object.entries(getTableColumns(table)).filter(([key]) => key in first);
  const json = rows.map((row) => Object.fromEntries(columns.map(([key, { name }]) => [name, memberOf(row, key)])));
  const names = sql.join(
    columns.map(([, { name }]) => sql.identifier(name)),
    sql`, `,
  );
  return sql`
    insert into ${table} (${names}) select ${names} from jsonb_populate_recordset(null::${table}, ${JSON.stringify(json)}::jsonb)`;
}
