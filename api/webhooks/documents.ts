import type { z } from 'zod';
import type { Webhook, WebhookAttempt } from '../../db/webhooks.ts';
import { formatTime } from '../http/fields.ts';
import { pageOf } from '../http/pagination.ts';
import type * as responses from './responses.ts';

/** The list of webhooks; `found` was read with `limit + 1`. */
export function webhookPage(
  found: (Webhook & { attempts: WebhookAttempt[] })[],
  limit: number,
): z.output<typeof responses.webhookList> {
  const { items, next_cursor } = pageOf(found, limit, ({ id }) => id);
  return { items: items.map(webhookDocument), next_cursor };
}

function webhookDocument(webhook: Webhook & { attempts: WebhookAttempt[] }): z.output<typeof responses.webhook> {
  return {
    id: webhook.id,
    url: webhook.url,
    type: webhook.type,
    status: webhook.status,
    created_at: formatTime(webhook.createdAt),
    finished_at: formatTime(webhook.finishedAt),
    attempts: webhook.attempts.map((attempt) => ({
      attempt: attempt.attempt,
      started_at: formatTime(attempt.startedAt),
      duration_ms: attempt.durationMs,
      status_code: attempt.statusCode,
      error: attempt.error,
    })),
  };
}
