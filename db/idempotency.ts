import { and, eq, sql } from 'drizzle-orm';
import type { Database, Queryable } from './client.ts';
import { idempotencyKeys } from './schema.ts';

export type Answer = NonNullable<typeof idempotencyKeys.$inferSelect.answer>;

/** A request that dies without an answer blocks its key for this long. */
const LOCK_SECONDS = 30;
const FORGOTTEN_AT_ONCE = 1_000;

const lockedUntil = () => sql`now() + make_interval(secs => ${LOCK_SECONDS})`;
const is = (owner: string, key: string) => and(eq(idempotencyKeys.owner, owner), eq(idempotencyKeys.key, key));

/** Takes a key for a request: `new`, `under way` while another has it, or what the first request was and its answer. */
export async function takeKey(
  db: Queryable,
  owner: string,
  key: string,
): Promise<'new' | 'under way' | { fingerprint: string; answer: Answer }> {
  const taken = await db
    .insert(idempotencyKeys)
    .values({ owner, key, lockedUntil: lockedUntil() })
    .onConflictDoUpdate({
      target: [idempotencyKeys.owner, idempotencyKeys.key],
      // Its row keeps the answer to this request, and its day begins now.
      set: { lockedUntil: lockedUntil(), createdAt: sql`now()` },
      setWhere: sql`${idempotencyKeys.answer} is null and ${idempotencyKeys.lockedUntil} < now()`,
    })
    .returning({ key: idempotencyKeys.key });
  if (taken.length > 0) return 'new';
  const [known] = await db.select().from(idempotencyKeys).where(is(owner, key));
  if (!known?.answer || known.fingerprint === null) return 'under way';
  return { fingerprint: known.fingerprint, answer: known.answer };
}

/** Keeps a key that takes long, such as an upload's. */
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

/** In the transaction that did what the answers say. Gives false when one of the keys has an answer already. */
export async function keepAnswers(tx: Queryable, answers: KeptAnswer[]): Promise<boolean> {
  if (answers.length === 0) return true;
  const { rowCount } = await tx.execute(sql`
    update idempotency_keys known set fingerprint = x.fingerprint, answer = x.answer
    from json_to_recordset(${JSON.stringify(answers)}::json) as x(owner text, key text, fingerprint text, answer json)
    where known.owner = x.owner and known.key = x.key and known.answer is null`);
  return rowCount === answers.length;
}

/** Frees the key of a request that was refused. */
export async function freeKey(db: Queryable, owner: string, key: string): Promise<void> {
  await db.delete(idempotencyKeys).where(and(is(owner, key), sql`${idempotencyKeys.answer} is null`));
}

/** Forgets answers that were kept for a day, in batches: several processes may do so at the same time. */
export async function forgetAnswers(db: Database): Promise<void> {
  for (;;) {
    const { rowCount } = await db.execute(sql`
      delete from idempotency_keys where ctid = any(array(
        select ctid from idempotency_keys where created_at < now() - interval '1 day'
        order by created_at limit ${FORGOTTEN_AT_ONCE} for update skip locked))`);
    if ((rowCount ?? 0) < FORGOTTEN_AT_ONCE) return;
  }
}
