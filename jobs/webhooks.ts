import { randomUUIDv7 } from 'node:crypto';
import { and, eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { insertRows } from '../db/insert.ts';
import { webhookAttempts, webhooks } from '../db/schema.ts';
import { type LockedWebhook, recordHost } from '../db/webhooks.ts';
import { transition } from './transition.ts';

/** How long each try waits for the next one; after a day and the last of them a webhook is given up. */
const WAITS_SECONDS = [1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 36_000];
const GIVE_UP_SECONDS = 86_400;
/** Given up by one failed try; the rest follows with the next. */
const MAX_GIVEN_UP = 1_000;

/** An upload or a job that has ended, and where its client wants to hear of that. */
export type Ended = { status: 'completed' | 'failed' | 'cancelled'; notifyUrl: string | null } & (
  | { uploadId: string }
  | { jobId: string }
);

/** The result of one try to deliver a webhook; `final` says that another one would be of no use. */
export interface Delivery {
  startedAt: Date;
  durationMs: number;
  /** Of the receiver's answer; null when there was none. */
  statusCode: number | null;
  /** Why it was not delivered; null when it was. */
  error: string | null;
  final: boolean;
  /** How the receiver answered; null when nothing was sent to it. */
  answer: 'prompt' | 'slow' | 'none' | null;
}

/** Makes one webhook for each that has a `notifyUrl`, in the transaction that ends it: so for each end there is exactly one. */
export async function notifyEnded(tx: Transaction, ended: Ended[]): Promise<void> {
  const made = ended.flatMap(({ status, notifyUrl: url, ...of }) => {
    if (url === null) return [];
    const type = `${'uploadId' in of ? 'upload' : 'job'}.${status}`;
    return [{ id: randomUUIDv7(), uploadId: null, jobId: null, ...of, url, host: new URL(url).host, type }];
  });
  if (made.length > 0) await insertRows(tx, webhooks, made);
}

/**
 * Records one try of a webhook that this process locked: it is delivered, or has failed finally, or is pending until the
 * next try. Gives which of these; undefined when it was deleted or settled meanwhile, or others try it again already.
 */
export async function settleWebhook(
  db: Database,
  { id, host, lane, lockedUntil }: LockedWebhook,
  { final, error, answer, ...tried }: Delivery,
): Promise<'delivered' | 'failed' | 'pending' | undefined> {
  return transition(db, async (tx) => {
    const [webhook] = await tx
      .select({ status: webhooks.status, lockedUntil: webhooks.lockedUntil })
      .from(webhooks)
      .where(eq(webhooks.id, id))
      .for('update');
    // The row of a prompt host that stays so need not be written by each of its deliveries.
    if (answer !== null && !(answer === 'prompt' && lane === 'prompt')) await recordHost(tx, host, answer);
    if (webhook?.status !== 'pending') return undefined;
    // Others try it again already, unless this try has delivered it.
    if (error !== null && webhook.lockedUntil?.getTime() !== lockedUntil.getTime()) return undefined;
    const attempt = 1 + (await tx.$count(webhookAttempts, eq(webhookAttempts.webhookId, id)));
    const wait = WAITS_SECONDS[attempt - 1];
    const status = error === null ? 'delivered' : final || wait === undefined ? 'failed' : 'pending';
    await tx
      .update(webhooks)
      .set({
        status,
        lockedUntil: null,
        finishedAt: status === 'pending' ? null : sql`now()`,
        ...(status === 'pending' && { dueAt: sql`now() + make_interval(secs => ${wait})` }),
      })
      .where(eq(webhooks.id, id));
    await tx.insert(webhookAttempts).values({ webhookId: id, attempt, error, ...tried });
    if (answer === 'none') await giveUpDead(tx, host);
    return status;
  });
}

/** Gives a webhook back whose delivery was cut off: it is due at once, for other processes or after a start. */
export async function releaseWebhook(db: Database, { id, lockedUntil }: LockedWebhook): Promise<void> {
  await db
    .update(webhooks)
    .set({ lockedUntil: null, dueAt: sql`now()` })
    .where(and(eq(webhooks.id, id), eq(webhooks.lockedUntil, lockedUntil)));
}

/**
 * Gives up what has waited for a host for as long as tries last, when the host has not answered in all of that time: one
 * webhook is tried at a time then, so that most would never get to their last try.
 */
async function giveUpDead(tx: Transaction, host: string): Promise<void> {
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
      ${`not sent: its receiver has not answered for ${GIVE_UP_SECONDS / 3600} hours`} from given_up`);
}
