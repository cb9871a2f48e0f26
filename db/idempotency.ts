import { and, eq, lt, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { idempotencyKeys } from './schema.ts';

export type Answer = NonNullable<typeof idempotencyKeys.$inferSelect.answer>;

/** A request that dies without an answer blocks its key for this long. */
const LOCK_SECONDS = 30;

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
      set: { lockedUntil: lockedUntil() },
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

/** In the transaction that did what the answer says. Gives false when the key has an answer already. */
export async function keepAnswer(
  tx: Queryable,
  owner: string,
  key: string,
  { fingerprint, answer }: { fingerprint: string; answer: Answer },
): Promise<boolean> {
  const { rowCount } = await tx
    .update(idempotencyKeys)
    .set({ fingerprint, answer })
    .where(and(is(owner, key), sql`${idempotencyKeys.answer} is null`));
  return rowCount === 1;
}

/** Frees the key of a request that was refused. */
export async function freeKey(db: Queryable, owner: string, key: string): Promise<void> {
  await db.delete(idempotencyKeys).where(and(is(owner, key), sql`${idempotencyKeys.answer} is null`));
}

/** Forgets answers that were kept for a day. */
export async function forgetAnswers(db: Queryable): Promise<void> {
  await db.delete(idempotencyKeys).where(lt(idempotencyKeys.createdAt, sql`now() - interval '1 day'`));
}
