import { and, eq, sql } from 'drizzle-orm';
import type { Database, Queryable } from './client.ts';
import { idempotencyKeys } from './schema.ts';

export type Answer = NonNullable<typeof idempotencyKeys.$inferSelect.answer>;

/** A request that ends without an answer blocks its key for this time. */
const LOCK_SECONDS = 30;
const DELETE_BATCH = 1_000;

const lockedUntil = () => sql`now() + make_interval(secs => ${LOCK_SECONDS})`;
const is = (owner: string, key: string) => and(eq(idempotencyKeys.owner, owner), eq(idempotencyKeys.key, key));

/** Takes a key for a request. Returns `new`, `in progress` while another request has it, or the first request's answer. */
export async function takeKey(
  db: Queryable,
  owner: string,
  key: string,
): Promise<'new' | 'in progress' | { fingerprint: string; answer: Answer }> {
  const taken = await db
    .insert(idempotencyKeys)
    .values({ owner, key, lockedUntil: lockedUntil() })
    .onConflictDoUpdate({
      target: [idempotencyKeys.owner, idempotencyKeys.key],
      // The row will keep the answer to this request, for a day from now.
      set: { lockedUntil: lockedUntil(), createdAt: sql`now()` },
      setWhere: sql`${idempotencyKeys.answer} is null and ${idempotencyKeys.lockedUntil} < now()`,
    })
    .returning({ key: idempotencyKeys.key });
  if (taken.length > 0) return 'new';
  const [known] = await db.select().from(idempotencyKeys).where(is(owner, key));
  if (!known?.answer || known.fingerprint === null) return 'in progress';
  return { fingerprint: known.fingerprint, answer: known.answer };
}

/** Extends the lock of a key, for a long request such as an upload. */
export async function holdKey(db: Queryable, owner: string, key: string): Promise<void> {
  await db.update(idempotencyKeys).set({ lockedUntil: lockedUntil() }).where(is(owner, key));
}

/** A request with a key, and its answer. */
export interface KeptAnswer {
  owner: string;
  key: string;
  fingerprint: string;
  answer: Answer;
}

/** Stores answers, in the transaction of the work. Returns false when one of the keys has an answer already. */
export async function keepAnswers(tx: Queryable, answers: KeptAnswer[]): Promise<boolean> {
  if (answers.length === 0) return true;
  const { rowCount } = await tx.execute(sql`
    update idempotency_keys known set fingerprint = x.fingerprint, answer = x.answer
    from json_to_recordset(${JSON.stringify(answers)}::json) as x(owner text, key text, fingerprint text, answer json)
    where known.owner = x.owner and known.key = x.key and known.answer is null`);
  return rowCount === answers.length;
}

/** Frees the key of a refused request. */
export async function freeKey(db: Queryable, owner: string, key: string): Promise<void> {
  await db.delete(idempotencyKeys).where(and(is(owner, key), sql`${idempotencyKeys.answer} is null`));
}

/** Deletes answers after a day, in batches. Several processes may do so at the same time. */
export async function forgetAnswers(db: Database): Promise<void> {
  for (;;) {
    const { rowCount } = await db.execute(sql`
      delete from idempotency_keys where ctid = any(array(
        select ctid from idempotency_keys where created_at < now() - interval '1 day'
        order by created_at limit ${DELETE_BATCH} for update skip locked))`);
    if ((rowCount ?? 0) < DELETE_BATCH) return;
  }
}
