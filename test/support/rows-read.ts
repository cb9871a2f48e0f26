import { sql } from 'drizzle-orm';
import type { Database, Transaction } from '../../db/client.ts';

/**
 * Gives the rows of a table that Postgres reads for `look`, by scans of the table or of its indexes. Only the counts of
 * the own connection are exact at once, and they may begin before the transaction.
 */
export async function rowsReadBy<T>(
  db: Database,
  table: string,
  look: (tx: Transaction) => Promise<T>,
): Promise<{ found: T; read: number }> {
  return db.transaction(async (tx) => {
    const counted = async () => {
      const { rows } = await tx.execute<{ read: number }>(sql`
        select (pg_stat_get_xact_tuples_returned(${table}::regclass)
          + sum(pg_stat_get_xact_tuples_returned(indexrelid)))::int as read
        from pg_index where indrelid = ${table}::regclass`);
      return rows[0]?.read ?? 0;
    };
    const before = await counted();
    const found = await look(tx);
    return { found, read: (await counted()) - before };
  });
}
