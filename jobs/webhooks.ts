import { randomUUIDv7 } from 'node:crypto';
import { and, eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { insertRows } from '../db/insert.ts';
import { webhookAttempts, webhooks } from '../db/schema.ts';
import { type LockedWebhook, recordHost } from '../db/webhooks.ts';
import { transition } from './transition.ts';

/** The delay after each failed delivery. A webhook fails after the last of them, which is after a day. */
const RETRY_DELAYS_SECONDS = [1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 36_000];
const GIVE_UP_SECONDS = 86_400;
/** A failed delivery gives up at most so many; the next one gives up more. */
const MAX_GIVEN_UP = 1_000;

/** A webhook about a row that has ended; without a `url` its client wants none. */
type NewWebhook = Pick<typeof webhooks.$inferInsert, 'type' | 'jobId' | 'uploadId'> & { url: string | null };

/** The result of one delivery of a webhook. */
export interface Delivery {
  startedAt: Date;
  durationMs: number;
  /** The HTTP status of the receiver; null without an answer. */
  statusCode: number | null;
  /** The reason why the delivery failed; null when it did not. */
  error: string | null;
  /** Another delivery would fail, too. */
  final: boolean;
  /** The speed of the receiver; null when nothing was sent to it. */
  answer: 'prompt' | 'slow' | 'none' | null;
}

/** Stores webhooks in the transaction that ends their rows, so that each end has exactly one. */
export async function createWebhooks(tx: Transaction, wanted: NewWebhook[]): Promise<void> {
  const created = wanted.flatMap(({ type, url, jobId = null, uploadId = null }) =>
    url === null ? [] : [{ id: randomUUIDv7(), uploadId, jobId, url, host: new URL(url).host, type }],
  );
  await insertRows(tx, webhooks, created);
}

/** Stores the webhooks of jobs that have ended. */
export async function createJobWebhooks(
  tx: Transaction,
  ended: { id: string; status: 'completed' | 'failed' | 'cancelled'; notifyUrl: string | null }[],
): Promise<void> {
  await createWebhooks(
    tx,
    ended.map(({ id, status, notifyUrl }) => ({ jobId: id, type: `job.${status}`, url: notifyUrl })),
  );
}

/**
 * Records one delivery of a webhook that this process locked. Returns its new status: `pending` until the next delivery;
 * undefined when it was deleted or settled meanwhile, or another process delivers it again.
 */
export async function settleWebhook(
  db: Database,
  { id, host, lane, lockedUntil }: LockedWebhook,
  { final, error, answer, ...delivery }: Delivery,
): Promise<'delivered' | 'failed' | 'pending' | undefined> {
  return transition(db, async (tx) => {
    const [webhook] = await tx
      .select({ status: webhooks.status, lockedUntil: webhooks.lockedUntil })
      .from(webhooks)
      .where(eq(webhooks.id, id))
      .for('update');
    // Saves a write for each delivery to a host that stays prompt.
    if (answer !== null && !(answer === 'prompt' && lane === 'prompt')) await recordHost(tx, host, answer);
    if (webhook?.status !== 'pending') return undefined;
    // Another process has taken it over. A success counts in any case.
    if (error !== null && webhook.lockedUntil?.getTime() !== lockedUntil.getTime()) return undefined;
    const attempt = 1 + (await tx.$count(webhookAttempts, eq(webhookAttempts.webhookId, id)));
    const delay = RETRY_DELAYS_SECONDS[attempt - 1];
    const status = error === null ? 'delivered' : final || delay === undefined ? 'failed' : 'pending';
    await tx
      .update(webhooks)
      .set({
        status,
        lockedUntil: null,
        finishedAt: status === 'pending' ? null : sql`now()`,
        ...(status === 'pending' && { dueAt: sql`now() + make_interval(secs => ${delay})` }),
      })
      .where(eq(webhooks.id, id));
    await tx.insert(webhookAttempts).values({ webhookId: id, attempt, error, ...delivery });
    if (answer === 'none') await giveUpOn(tx, host);
    return status;
  });
}

/** Unlocks a webhook whose delivery was interrupted: it is due at once. */
export async function releaseWebhook(db: Database, { id, lockedUntil }: LockedWebhook): Promise<void> {
  await db
    .update(webhooks)
    .set({ lockedUntil: null, dueAt: sql`now()` })
    .where(and(eq(webhooks.id, id), eq(webhooks.lockedUntil, lockedUntil)));
}

/**
 * Fails webhooks that have waited for a day for a host that did not answer all day. Such a host gets one webhook at a time,
 * so that most webhooks would never reach their last delivery.
 */
async function giveUpOn(tx: Transaction, host: string): Promise<void> {
  await tx.execute(sql`
    with given_up as (
      update webhooks set status = 'failed', finished_at = now() where id = any(array(
        select id from webhooks join webhook_hosts known using (host)
        where webhooks.host = ${host} and status = 'pending' and locked_until is null
          and greatest(webhooks.created_at, known.failing_since) < now() - make_interval(secs => ${GIVE_UP_SECONDS})
        order by due_at limit ${MAX_GIVEN_UP} for update of webhooks skip locked))
      returning id
    )
    insert into webhook_attempts (webhook_id, attempt, started_at, duration_ms, error)
    select id, 1 + (select count(*) from webhook_attempts where webhook_id = id), now(), 0,
      ${`not sent: the receiver has not answered for ${GIVE_UP_SECONDS / 3600} hours`} from given_up`);
}
