import { and, asc, eq, gt, lt, notExists, sql } from 'drizzle-orm';
import type { Database, Queryable } from './client.ts';
import { LOCKS } from './locks.ts';
import { webhookAttempts, webhookHosts, webhooks } from './schema.ts';

export type Webhook = typeof webhooks.$inferSelect;
export type WebhookAttempt = typeof webhookAttempts.$inferSelect;

/**
 * Each lane of receivers has its own capacity, so that receivers that hang do not delay others. `prompt` receivers answered
 * quickly the last time, `new` ones were never tried, `slow` ones took long or did not answer.
 */
export type Lane = 'prompt' | 'new' | 'slow';

/** A webhook that this process delivers, until `lockedUntil`. */
export interface LockedWebhook {
  id: string;
  host: string;
  lane: Lane;
  lockedUntil: Date;
}

/** A process that stalls loses the lock after this time. */
const MAX_STALL = '1s';
/** Longer than a delivery may take. Afterwards other processes deliver the webhooks of a killed one. */
const LOCK_SECONDS = 30;
/** Concurrent deliveries to one host, of all processes. A host that has not answered, or no longer does, gets one. */
const MAX_PER_HOST = 4;
/** The hosts that one query reads, which takes some milliseconds. */
const MAX_HOSTS = 500;
/** The maximum backoff of a host that does not answer. It never exceeds the backoff of a webhook. */
const MAX_HOST_BACKOFF_SECONDS = 60;

/**
 * Locks webhooks that are due, up to `room` of each lane, hosts with the fewest deliveries first. Reads one row per host and
 * not its backlog, starting behind the host `after`. Returns the host to continue behind; null after the last host.
 */
export async function takeWebhooks(
  db: Queryable,
  room: Record<Lane, number>,
  after: string | null = null,
): Promise<{ taken: LockedWebhook[]; next: string | null }> {
  return db.transaction(async (tx) => {
    // The lock lets one process at a time count the deliveries of a host. The settings force the indexes, since statistics
    // lag behind a backlog. Rows are joined by an array, since Postgres estimates an unknown limit as a tenth of the rows.
    await tx.execute(sql`
      select set_config('idle_in_transaction_session_timeout', ${MAX_STALL}, true), set_config('enable_seqscan', 'off', true),
        set_config('enable_bitmapscan', 'off', true), pg_advisory_xact_lock(${LOCKS.webhooks})`);
    const { rows } = await tx.execute<{ taken: (LockedWebhook & { lockedUntil: string })[]; next: string | null }>(sql`
      with recursive hosts as (
        (select host from webhooks where status = 'pending' and (${after}::text is null or host > ${after})
          order by host limit 1)
        union all
        select next.host from hosts, lateral (
          select host from webhooks where status = 'pending' and host > hosts.host order by host limit 1) next
      ), passed as materialized (select host from hosts limit ${MAX_HOSTS}
      ), open as (
        select passed.host, at_work.count as at_work,
          case when known is null then 'new' when known.slow or known.failures > 0 then 'slow' else 'prompt' end as lane,
          case when known is null or known.failures > 0 then 1 else ${MAX_PER_HOST} end - at_work.count as places
        from passed left join webhook_hosts known using (host), lateral (
          select count(*)::int as count from webhooks where host = passed.host and locked_until > now()) at_work
        where known.retry_at is null or known.retry_at <= now()
      ), heads as (
        select head.id, lane, due_at, at_work + row_number() over (partition by host order by due_at) as of_host
        from open, lateral (
          select id, due_at from webhooks where status = 'pending' and host = open.host and due_at <= now()
          order by due_at limit greatest(open.places, 0) for update skip locked) head
      ), due as (
        select id, lane, row_number() over (partition by lane order by of_host, due_at) as place from heads
      ), chosen as (
        select id, lane from due where place <= (${JSON.stringify(room)}::jsonb->>lane)::int
      ), locked as (
        update webhooks set locked_until = until, due_at = until
        from (select date_trunc('milliseconds', now()) + make_interval(secs => ${LOCK_SECONDS}) as until) lease
        where id = any(array(select id from chosen))
        returning id, host, locked_until as "lockedUntil"
      ), taken as (select * from locked join chosen using (id)
      )
      select coalesce((select jsonb_agg(to_jsonb(taken)) from taken), '[]') as taken,
        (select case when count(*) = ${MAX_HOSTS} then max(host) end from passed) as next`);
    const { taken = [], next = null } = rows[0] ?? {};
    return { taken: taken.map((webhook) => ({ ...webhook, lockedUntil: new Date(webhook.lockedUntil) })), next };
  });
}

/** Records a delivery to a host. An answer ends its failures; no answer starts or doubles its backoff. */
export async function recordHost(db: Queryable, host: string, answer: 'prompt' | 'slow' | 'none'): Promise<void> {
  const failed = answer === 'none';
  await db.execute(sql`
    insert into webhook_hosts as known (host, slow, failures, failing_since, retry_at)
    values (${host}, ${answer !== 'prompt'}, ${failed ? 1 : 0}, ${failed ? sql`now()` : null}, ${failed ? sql`now() + interval '1 second'` : null})
    on conflict (host) do update set slow = excluded.slow, changed_at = now(),
      failures = case when ${failed} then known.failures + 1 else 0 end,
      failing_since = case when ${failed} then coalesce(known.failing_since, now()) end,
      retry_at = case when ${failed}
        then now() + make_interval(secs => least(power(2, least(known.failures, 30)), ${MAX_HOST_BACKOFF_SECONDS})) end`);
}

/** Deletes up to `limit` hosts without pending webhooks and without a delivery for a day. Returns how many. */
export async function forgetHosts(db: Database, limit: number): Promise<number> {
  const { rowCount } = await db.execute(sql`
    delete from webhook_hosts where host = any(array(
      select host from webhook_hosts where ${and(
        lt(webhookHosts.changedAt, sql`now() - interval '1 day'`),
        notExists(
          db
            .select({ id: webhooks.id })
            .from(webhooks)
            .where(and(eq(webhooks.status, 'pending'), eq(webhooks.host, webhookHosts.host))),
        ),
      )} limit ${limit} for update skip locked))`);
  return rowCount ?? 0;
}

/** A pending webhook; undefined if it has ended. */
export async function findPending(db: Queryable, id: string): Promise<Webhook | undefined> {
  const [webhook] = await db
    .select()
    .from(webhooks)
    .where(and(eq(webhooks.id, id), eq(webhooks.status, 'pending')));
  return webhook;
}

/**
 * The webhooks of an upload or a job with their attempts, oldest first: one for each time that it ended. Returns at most
 * `limit`, after the id `after`.
 */
export async function listWebhooks(
  db: Queryable,
  of: { uploadId: string } | { jobId: string },
  { limit, after }: { limit: number; after?: string | undefined },
): Promise<(Webhook & { attempts: WebhookAttempt[] })[]> {
  const ofThat = 'uploadId' in of ? eq(webhooks.uploadId, of.uploadId) : eq(webhooks.jobId, of.jobId);
  const found = await db
    .select()
    .from(webhooks)
    .where(and(ofThat, after === undefined ? undefined : gt(webhooks.id, after)))
    .orderBy(asc(webhooks.id))
    .limit(limit);
  const attempts = await db
    .select()
    .from(webhookAttempts)
    .where(sql`${webhookAttempts.webhookId} = any(${sql.param(found.map(({ id }) => id))}::uuid[])`)
    .orderBy(asc(webhookAttempts.attempt));
  const byWebhook = Map.groupBy(attempts, ({ webhookId }) => webhookId);
  return found.map((webhook) => ({ ...webhook, attempts: byWebhook.get(webhook.id) ?? [] }));
}
