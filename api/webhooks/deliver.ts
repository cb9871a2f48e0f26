import { Webhook as Signer } from 'standardwebhooks';
import type { Database, Transaction } from '../../db/client.ts';
import { dependenciesOf, findJob, listAttempts } from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import { findUpload } from '../../db/uploads.ts';
import { findPending, type Webhook } from '../../db/webhooks.ts';
import { type Delivery, settleWebhook } from '../../jobs/webhooks.ts';
import type { Logger } from '../../log.ts';
import { createSignal } from '../../signal.ts';
import { jobDetail } from '../documents.ts';
import { webhookTries } from '../metrics.ts';
import { readUpload } from '../read-upload.ts';
import type { Guard } from './guard.ts';
import { post } from './post.ts';

const POLL_MS = 1_000;
/** The whole of an exchange with a receiver. */
const TIMEOUT_MS = 10_000;
/** Deliveries at work in this process, and to one host in all: receivers that never answer leave room for others. */
const MOST_AT_ONCE = 40;
const MOST_PER_HOST = 4;
const LONGEST_ERROR = 500;
/** The receiver wants no more of it. */
const GONE = 410;

/**
 * Delivers the webhooks that are due, as Standard Webhooks says, each signed with every secret; several processes share
 * the work. `close` takes no more and waits up to the grace for what is under way.
 */
export function deliverWebhooks({
  db,
  queues,
  guard,
  secrets,
  log,
}: {
  db: Database;
  queues: Queues;
  guard: Guard;
  secrets: string[];
  log: Logger;
}) {
  const signers = secrets.map((secret) => new Signer(secret));
  const wake = createSignal();
  const stop = new AbortController();
  const underWay = new Set<Promise<void>>();
  let closed = false;

  /** Starts as many of those that are due as there is room for. Gives whether there were any. */
  async function startDue(): Promise<boolean> {
    const room = MOST_AT_ONCE - underWay.size;
    const taken = room > 0 ? await queues.takeWebhooks(room, MOST_PER_HOST) : [];
    for (const id of taken) {
      const delivery = deliver(id)
        // It is due again once pg-boss finds that nobody has settled it.
        .catch((error) => log.warn({ err: error, webhook: id }, 'webhook not settled'))
        .finally(() => {
          underWay.delete(delivery);
          wake.set();
        });
      underWay.add(delivery);
    }
    return taken.length > 0;
  }

  async function deliver(id: string): Promise<void> {
    const due = await read(db, id);
    const startedAt = new Date();
    const began = performance.now();
    const refusal = refusalOf(due);
    const outcome = refusal ?? (await attempt(due as Due));
    const durationMs = Math.round(performance.now() - began);
    const status = await settleWebhook(db, queues, id, { startedAt, durationMs, ...outcome });
    if (due !== undefined && refusal === undefined) tell(due.webhook, { durationMs, ...outcome }, status);
  }

  /** A try, to metrics and log. Of the URL the host is enough: the rest may hold what only its receiver should know. */
  function tell(
    { id, uploadId, jobId, type, url }: Webhook,
    { final: _, ...tried }: Outcome & { durationMs: number },
    status: Awaited<ReturnType<typeof settleWebhook>>,
  ): void {
    const outcome = tried.error === null ? 'delivered' : status === 'pending' ? 'failed' : 'given_up';
    webhookTries.inc({ outcome });
    const { host } = new URL(url);
    log.info(
      { webhook: id, upload: uploadId ?? undefined, job: jobId ?? undefined, type, host, outcome, ...tried },
      'webhook tried',
    );
  }

  async function attempt({ webhook, data }: Due): Promise<Outcome> {
    const body = JSON.stringify({ type: webhook.type, timestamp: webhook.createdAt, data });
    const now = new Date();
    const headers = {
      'Content-Type': 'application/json',
      'User-Agent': 'sheetmill',
      'webhook-id': webhook.id,
      'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
      'webhook-signature': signers.map((signer) => signer.sign(webhook.id, now, body)).join(' '),
    };
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    try {
      const signal = AbortSignal.any([timeout, stop.signal]);
      const statusCode = await post(new URL(webhook.url), { headers, body, guard, signal });
      const delivered = statusCode >= 200 && statusCode < 300;
      return { statusCode, error: delivered ? null : `answered ${statusCode}`, final: statusCode === GONE };
    } catch (error) {
      if (timeout.aborted) return failed(`no answer within ${TIMEOUT_MS / 1000} s`);
      if (stop.signal.aborted) return failed('no answer when the service stopped');
      // Of a host with several addresses, none of which answers, there is a code alone.
      const { message, code } = error as NodeJS.ErrnoException;
      return failed((message || code || 'unknown').slice(0, LONGEST_ERROR));
    }
  }

  const running = (async () => {
    while (!closed) {
      const started = await startDue().catch((error) => {
        log.warn({ err: error }, 'webhooks not taken');
        return false;
      });
      if (!started) await wake.wait(POLL_MS);
    }
  })();

  return {
    async close(graceMs: number): Promise<void> {
      closed = true;
      wake.set();
      await running;
      const grace = setTimeout(() => stop.abort(), graceMs);
      await Promise.all(underWay);
      clearTimeout(grace);
    },
  };
}

type Outcome = Omit<Delivery, 'startedAt' | 'durationMs'>;

function failed(error: string, { final = false } = {}): Outcome {
  return { statusCode: null, error, final };
}

/** Why a webhook is not sent at all; undefined when it is. */
function refusalOf(due: Due | undefined): Outcome | undefined {
  if (due === undefined) return failed('deleted');
  const { webhook, data } = due;
  // What would be sent says otherwise than the webhook; the end that follows has one of its own.
  return webhook.type.endsWith(`.${data.status}`)
    ? undefined
    : failed(`not sent: it was retried since, and is ${data.status}`, { final: true });
}

/** A webhook that is to be delivered, and the document that it brings. */
interface Due {
  webhook: Webhook;
  data: { status: string };
}

/** Both as one moment saw them; undefined when they were deleted, or others have settled it. */
async function read(db: Database, id: string): Promise<Due | undefined> {
  return db.transaction(
    async (tx) => {
      const webhook = await findPending(tx, id);
      if (webhook === undefined) return undefined;
      const data = webhook.uploadId ? await uploadOf(tx, webhook.uploadId) : await jobOf(tx, webhook.jobId as string);
      return data && { webhook, data };
    },
    { isolationLevel: 'repeatable read', accessMode: 'read only' },
  );
}

async function uploadOf(tx: Transaction, id: string) {
  const upload = await findUpload(tx, id);
  return upload && readUpload(tx, upload);
}

async function jobOf(tx: Transaction, id: string) {
  const job = await findJob(tx, id);
  const dependsOn = await dependenciesOf(tx, [id]);
  return job && jobDetail(job, dependsOn.get(id), null, await listAttempts(tx, id));
}
