import { and, asc, eq } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { webhookAttempts, webhooks } from './schema.ts';

export type Webhook = typeof webhooks.$inferSelect;
export type WebhookAttempt = typeof webhookAttempts.$inferSelect;

/** A webhook that is still to be delivered. */
export async function findPending(db: Queryable, id: string): Promise<Webhook | undefined> {
  const [webhook] = await db
    .select()
    .from(webhooks)
    .where(and(eq(webhooks.id, id), eq(webhooks.status, 'pending')));
  return webhook;
}

/** Those of an upload or a job, in the order of its ends, each with its attempts. There is one for each time that it ended. */
export async function listWebhooks(
  db: Queryable,
  of: { uploadId: string } | { jobId: string },
): Promise<(Webhook & { attempts: WebhookAttempt[] })[]> {
  const ofThat = 'uploadId' in of ? eq(webhooks.uploadId, of.uploadId) : eq(webhooks.jobId, of.jobId);
  const found = await db.select().from(webhooks).where(ofThat).orderBy(asc(webhooks.id));
  const attempts = await db
    .select({ attempt: webhookAttempts })
    .from(webhookAttempts)
    .innerJoin(webhooks, eq(webhooks.id, webhookAttempts.webhookId))
    .where(ofThat)
    .orderBy(asc(webhookAttempts.attempt));
  const byWebhook = Map.groupBy(attempts, ({ attempt }) => attempt.webhookId);
  return found.map((webhook) => ({
    ...webhook,
    attempts: (byWebhook.get(webhook.id) ?? []).map(({ attempt }) => attempt),
  }));
}
