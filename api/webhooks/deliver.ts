import type { Database } from '../../db/client.ts';
import { type LockedWebhook, takeWebhooks, type Webhook } from '../../db/webhooks.ts';
import { type Delivery, releaseWebhook, settleWebhook } from '../../jobs/webhooks.ts';
import type { Logger } from '../../runtime/log.ts';
import { WakeFlag } from '../../runtime/wake-flag.ts';
import { webhookTries } from '../operations/metrics.ts';
import { Lanes } from './lanes.ts';
import { type Notice, readNotice } from './notice.ts';
import { post } from './post.ts';
import { createSign, type Sign } from './sign.ts';
import type { Guard } from './ssrf-guard.ts';

const POLL_MS = 500;
/** Timeout of a delivery: connection, request and answer. */
const TIMEOUT_MS = 10_000;
/** A receiver whose answer takes longer is slow, and its next deliveries start in the slow lane. */
const PROMPT_MS = 1_000;
/** Deliveries of each lane at a time in this process. */
const MAX_IN_LANE = 40;
const MAX_ERROR_LENGTH = 500;
/** The status with which a receiver ends its webhook. */
const GONE = 410;

interface Parts {
  db: Database;
  guard: Guard;
  /** Every webhook is signed with each of them. */
  secrets: string[];
  log: Logger;
}

export interface WebhookDelivery {
  /** Takes no more webhooks, waits up to `graceMs` for running deliveries, and gives the others back. */
  close(graceMs: number): Promise<void>;
}

/** Delivers the webhooks that are due, as Standard Webhooks specifies. Several processes share the work. */
export function deliverWebhooks(parts: Parts): WebhookDelivery {
  return new Deliverer(parts);
}

/** The end of a try: with an answer, without one, or cut off by the end of this process. */
type Outcome = (Pick<Delivery, 'statusCode' | 'error' | 'final'> & { isAnswered: boolean }) | 'cut off';

class Deliverer implements WebhookDelivery {
  readonly #db: Database;
  readonly #guard: Guard;
  readonly #log: Logger;
  readonly #sign: Sign;
  readonly #lanes: Lanes;
  /** Set when a webhook may be due or a lane has room again. */
  readonly #wake = new WakeFlag();
  /** Aborted when the grace period of `close` ends. */
  readonly #cutOff = new AbortController();
  readonly #deliveries = new Set<Promise<void>>();
  readonly #running: Promise<void>;
  /** The host after which the next look begins; null when the last look passed all hosts. */
  #after: string | null = null;
  #isClosed = false;

  constructor({ db, guard, secrets, log }: Parts) {
    this.#db = db;
    this.#guard = guard;
    this.#log = log;
    this.#sign = createSign(secrets);
    this.#lanes = new Lanes({ max: MAX_IN_LANE, slowAfterMs: PROMPT_MS, onRoom: () => this.#wake.set() });
    this.#running = this.#run();
  }

  async close(graceMs: number): Promise<void> {
    this.#isClosed = true;
    this.#wake.set();
    await this.#running;
    const grace = setTimeout(() => this.#cutOff.abort(), graceMs);
    await Promise.all(this.#deliveries);
    clearTimeout(grace);
  }

  async #run(): Promise<void> {
    while (!this.#isClosed) {
      const mayBeMore = await this.#startDue().catch((error) => {
        this.#log.warn({ err: error }, 'due webhooks could not be read');
        return false;
      });
      if (!mayBeMore) await this.#wake.wait(POLL_MS);
    }
  }

  /** Starts as many due deliveries as the lanes have room for. Returns true if more may be due. */
  async #startDue(): Promise<boolean> {
    const { taken, next } = await takeWebhooks(this.#db, this.#lanes.room(), this.#after);
    this.#after = next;
    for (const locked of taken) {
      const delivery = this.#lanes
        .run(locked.lane, () => this.#deliver(locked))
        // The webhook is due again once its lock has expired.
        .catch((error) => this.#log.warn({ err: error, webhook: locked.id }, 'webhook delivery could not be stored'))
        .finally(() => this.#deliveries.delete(delivery));
      this.#deliveries.add(delivery);
    }
    return taken.length > 0 || next !== null;
  }

  async #deliver(locked: LockedWebhook): Promise<void> {
    const notice = await readNotice(this.#db, locked.id);
    if (notice === undefined) return;
    const startedAt = new Date();
    const began = performance.now();
    const refusal = refusalOf(notice);
    const outcome = refusal ?? (await this.#send(notice));
    const durationMs = Math.round(performance.now() - began);
    if (outcome === 'cut off') return releaseWebhook(this.#db, locked);
    const { isAnswered, ...result } = outcome;
    const answer = refusal ? null : isAnswered ? (durationMs < PROMPT_MS ? 'prompt' : 'slow') : 'none';
    const status = await settleWebhook(this.#db, locked, { startedAt, durationMs, answer, ...result });
    if (refusal === undefined) this.#report(notice.webhook, { durationMs, ...result }, status);
  }

  async #send({ webhook, data }: Notice): Promise<Outcome> {
    const body = JSON.stringify({ type: webhook.type, timestamp: webhook.createdAt, data });
    const headers = {
      'Content-Type': 'application/json',
      'User-Agent': 'sheetmill',
      ...this.#sign(webhook.id, body),
    };
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const signal = AbortSignal.any([timeout, this.#cutOff.signal]);
    try {
      const statusCode = await post(new URL(webhook.url), { headers, body, guard: this.#guard, signal });
      const error = statusCode >= 200 && statusCode < 300 ? null : `answered ${statusCode}`;
      return { statusCode, error, final: statusCode === GONE, isAnswered: true };
    } catch (error) {
      if (timeout.aborted) return failed(`no answer within ${TIMEOUT_MS / 1000} s`);
      // A delivery that this process cut off says nothing about the receiver.
      if (this.#cutOff.signal.aborted) return 'cut off';
      return failed(reasonOf(error));
    }
  }

  /** Counts and logs a try. The log names only the host, since the rest of a URL may be secret. */
  #report(
    { id, uploadId, jobId, type, url }: Webhook,
    { final: _, ...tried }: Pick<Delivery, 'durationMs' | 'statusCode' | 'error' | 'final'>,
    status: Awaited<ReturnType<typeof settleWebhook>>,
  ): void {
    const outcome = tried.error === null ? 'delivered' : status === 'pending' ? 'failed' : 'given_up';
    webhookTries.inc({ outcome });
    const { host } = new URL(url);
    const webhook = { webhook: id, upload: uploadId ?? undefined, job: jobId ?? undefined, type, host };
    this.#log.info({ ...webhook, outcome, ...tried }, 'webhook tried');
  }
}

function failed(error: string, { final = false } = {}) {
  return { statusCode: null, error, final, isAnswered: false };
}

/** Gives the reason not to send a webhook: a retry has made it untrue, and the next end has a separate webhook. */
function refusalOf({ webhook, data }: Notice) {
  if (webhook.type.endsWith(`.${data.status}`)) return undefined;
  return failed(`not sent: the status is now ${data.status}`, { final: true });
}

function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : '';
  // The error for a host with several unreachable addresses has a code and an empty message.
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return (message || code || 'unknown').slice(0, MAX_ERROR_LENGTH);
}
