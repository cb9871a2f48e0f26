import { Webhook as Signer } from 'standardwebhooks';
import type { Database, Transaction } from '../../db/client.ts';
import { countAttempts, countDependencies, findListed } from '../../db/jobs.ts';
import { countParts, findUpload } from '../../db/uploads.ts';
import { findPending, type Lane, type LockedWebhook, takeWebhooks, type Webhook } from '../../db/webhooks.ts';
import { type Delivery, releaseWebhook, settleWebhook } from '../../jobs/webhooks.ts';
import type { Logger } from '../../runtime/log.ts';
import { WakeFlag } from '../../runtime/wake-flag.ts';
import { jobNotice, uploadNotice } from '../documents.ts';
import { webhookTries } from '../operations/metrics.ts';
import { post } from './post.ts';
import type { Guard } from './ssrf-guard.ts';

const POLL_MS = 500;
/** The whole of an exchange with a receiver. */
const TIMEOUT_MS = 10_000;
/** A delivery that takes longer is slow, and so is its host the next time. */
const PROMPT_MS = 1_000;
/** Deliveries at a time in this process. One that gets slow moves to that lane, which may then have more. */
const MAX_IN_LANE: Record<Lane, number> = { prompt: 40, new: 40, slow: 40 };
const MAX_ERROR_LENGTH = 500;
/** The receiver wants no more of it. */
const GONE = 410;

/**
 * Delivers the webhooks that are due, as Standard Webhooks says, each signed with every secret; several processes share
 * the work. `close` takes no more, waits up to the grace for what is being sent, and gives back the rest.
 */
export function deliverWebhooks({
  db,
  guard,
  secrets,
  log,
}: {
  db: Database;
  guard: Guard;
  secrets: string[];
  log: Logger;
}) {
  const signers = secrets.map((secret) => new Signer(secret));
  const wake = new WakeFlag();
  const stop = new AbortController();
  const underWay = new Set<Promise<void>>();
  const inLane: Record<Lane, number> = { prompt: 0, new: 0, slow: 0 };
  /** Where the next look begins, when the last one did not pass all hosts. */
  let after: string | null = null;
  let closed = false;

  /** Starts as many of those that are due as there is room for. Gives whether there may be more. */
  async function startDue(): Promise<boolean> {
    const roomIn = (lane: Lane) => Math.max(0, MAX_IN_LANE[lane] - inLane[lane]);
    const room = { prompt: roomIn('prompt'), new: roomIn('new'), slow: roomIn('slow') };
    const { taken, next } = await takeWebhooks(db, room, after);
    after = next;
    for (const locked of taken) {
      const leaveLane = enterLane(locked.lane);
      const delivery = deliver(locked)
        // It is due again once its lock has run out.
        .catch((error) => log.warn({ err: error, webhook: locked.id }, 'webhook not settled'))
        .finally(() => {
          underWay.delete(delivery);
          leaveLane();
          wake.set();
        });
      underWay.add(delivery);
    }
    return taken.length > 0 || next !== null;
  }

  /** Counts a delivery in its lane until the function that this gives is called; in the slow one, once it has got slow. */
  function enterLane(lane: Lane): () => void {
    let current = lane;
    const moveTo = (next: Lane) => {
      inLane[current]--;
      inLane[next]++;
      current = next;
    };
    inLane[current]++;
    const timer = setTimeout(() => {
      moveTo('slow');
      wake.set();
    }, PROMPT_MS);
    return () => {
      clearTimeout(timer);
      inLane[current]--;
    };
  }

  async function deliver(locked: LockedWebhook): Promise<void> {
    const due = await read(db, locked.id);
    // Deleted, or settled by others.
    if (due === undefined) return;
    const startedAt = new Date();
    const began = performance.now();
    const refusal = refusalOf(due);
    const outcome = refusal ?? (await attempt(due));
    const durationMs = Math.round(performance.now() - began);
    if (outcome === 'cut off') return releaseWebhook(db, locked);
    const { isAnswered, ...result } = outcome;
    const answer = refusal ? null : isAnswered ? (durationMs < PROMPT_MS ? 'prompt' : 'slow') : 'none';
    const status = await settleWebhook(db, locked, { startedAt, durationMs, answer, ...result });
    if (refusal === undefined) tell(due.webhook, { durationMs, ...result }, status);
  }

  /** A try, to metrics and log. Of the URL the host is enough: the rest may hold what only its receiver should know. */
  function tell(
    { id, uploadId, jobId, type, url }: Webhook,
    { final: _, ...tried }: Pick<Delivery, 'durationMs' | 'statusCode' | 'error' | 'final'>,
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

  async function attempt({ webhook, data }: Due): Promise<Outcome | 'cut off'> {
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
      return {
        statusCode,
        error: delivered ? null : `answered ${statusCode}`,
        final: statusCode === GONE,
        isAnswered: true,
      };
    } catch (error) {
      if (timeout.aborted) return failed(`no answer within ${TIMEOUT_MS / 1000} s`);
      // Nothing is known of the receiver: it is no failed try.
      if (stop.signal.aborted) return 'cut off';
      // Of a host with several addresses, none of which answers, there is a code alone.
      const { message, code } = error as NodeJS.ErrnoException;
      return failed((message || code || 'unknown').slice(0, MAX_ERROR_LENGTH));
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

type Outcome = Pick<Delivery, 'statusCode' | 'error' | 'final'> & { isAnswered: boolean };

function failed(error: string, { final = false } = {}): Outcome {
  return { statusCode: null, error, final, isAnswered: false };
}

/** Why a webhook is not sent at all; undefined when it is. */
function refusalOf({ webhook, data }: Due): Outcome | undefined {
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
  return upload && uploadNotice(upload, await countParts(tx, id));
}

async function jobOf(tx: Transaction, id: string) {
  const [job] = await findListed(tx, [id]);
  if (job === undefined) return undefined;
  return jobNotice(job, { attempts: await countAttempts(tx, id), dependsOn: await countDependencies(tx, id) });
}
