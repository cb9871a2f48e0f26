import { randomUUIDv7 } from 'node:crypto';
import { and, eq, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { insertRows } from '../db/insert.ts';
import type { Queues } from '../db/queues.ts';
import { webhookAttempts, webhooks } from '../db/schema.ts';
import { transition } from './transition.ts';

/** How long each try waits for the next one; after a day and the last of them a webhook is given up. */
const WAITS_SECONDS = [1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 36_000];

/** An upload or a job that has ended, and where its client wants to hear of that. */
export type Ended = { status: 'completed' | 'failed' | 'cancelled'; notifyUrl: string | null } & (
  | { uploadId: string }
  | { jobId: string }
);

/** What became of one try to deliver a webhook; `final` says that another one would be of no use. */
export interface Delivery {
  startedAt: Date;
  durationMs: number;
  /** Of the receiver's answer; null when there was none. */
  statusCode: number | null;
  /** Why it was not delivered; null when it was. */
  error: string | null;
  final: boolean;
}

/** Makes one webhook for each that has a `notifyUrl`, in the transaction that ends it: so for each end there is exactly one. */
export async function notifyEnded(tx: Transaction, queues: Queues, ended: Ended[]): Promise<void> {
  const made = ended.flatMap(({ status, notifyUrl: url, ...of }) => {
    if (url === null) return [];
    const type = `${'uploadId' in of ? 'upload' : 'job'}.${status}`;
    return [{ id: randomUUIDv7(), uploadId: null, jobId: null, ...of, url, type }];
  });
  if (made.length === 0) return;
  await insertRows(tx, webhooks, made);
  await queues.sendWebhooks(
    tx,
    made.map(({ id, url }) => ({ id, host: new URL(url).host, tries: 0, afterSeconds: 0 })),
  );
}

/**
 * Records one try of a webhook that was taken: it is delivered, or has failed for good, or is pending until the next try.
 * Gives which of these; undefined when it was deleted meanwhile.
 */
export async function settleWebhook(
  db: Database,
  queues: Queues,
  id: string,
  { final, error, ...tried }: Delivery,
): Promise<'delivered' | 'failed' | 'pending' | undefined> {
  return transition(db, async (tx) => {
    const attempt = 1 + (await tx.$count(webhookAttempts, eq(webhookAttempts.webhookId, id)));
    const wait = WAITS_SECONDS[attempt - 1];
    const status = error === null ? 'delivered' : final || wait === undefined ? 'failed' : 'pending';
    const [webhook] = await tx
      .update(webhooks)
      .set({ status, finishedAt: status === 'pending' ? null : sql`now()` })
      .where(and(eq(webhooks.id, id), eq(webhooks.status, 'pending')))
      .returning({ url: webhooks.url });
    await queues.removeWebhook(tx, id);
    // Its upload or job may have been deleted meanwhile.
    if (webhook === undefined) return undefined;
    await tx.insert(webhookAttempts).values({ webhookId: id, attempt, error, ...tried });
    if (status === 'pending' && wait !== undefined) {
      const { host } = new URL(webhook.url);
      await queues.sendWebhooks(tx, [{ id, host, tries: attempt, afterSeconds: wait }]);
    }
    return status;
  });
}
