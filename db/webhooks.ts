import { and, asc, eq, gt, lt, notExists, sql } from 'drizzle-orm';
import type { Database, Queryable } from './client.ts';
import { LOCKS } from './locks.ts';
import { webhookAttempts, webhookHosts, webhooks } from './schema.ts';

export type Webhook = typeof webhooks.$inferSelect;
export type WebhookAttempt = typeof webhookAttempts.$inferSelect;

/**
 * Receivers share places by what is known of them, so that those that hang take none from the others: `prompt` ones
 * answered soon the last time, `new` ones were never tried, `slow` ones took long or gave no answer.
 */
export type Lane = 'prompt' | 'new' | 'slow';

/** A webhook that this process delivers, until `lockedUntil`. */
export interface LockedWebhook {
  id: string;
  host: string;
  lane: Lane;
  lockedUntil: Date;
}

/** A process that stalls while it holds the lock loses it after this time. */
const MAX_STALL = '1s';
/** Longer than a delivery may take: after it, others deliver what a killed process had locked. */
const LOCK_SECONDS = 30;
/** Deliveries to one host at a time in all processes; one until it has answered for the first time, or again. */
const MAX_PER_HOST = 4;
/** Hosts with pending webhooks that one look passes: it takes some milliseconds for this many. */
const MAX_HOSTS = 500;
/** How long a host that does not answer is left alone: doubled by each failure, never longer than one webhook's own wait. */
const MAX_COOL_DOWN_SECONDS = 60;

/**
 * Locks webhooks that are due, as many of each lane as there is `room`, hosts with the fewest deliveries first. Looks at
 * one row for each host and not at its backlog, from the host behind `after` on. Gives the host to continue behind; null
 * when all were passed.
 */
export async function takeWebhooks(
  db: Queryable,
  room: Record<Lane, number>,
  after: string | null = null,
): Promise<{ taken: LockedWebhook[]; next: string | null }> {
  return db.transaction(async (tx) => {
    // One process at a time counts what a host has. Statistics lag behind a backlog, so the indexes are not left to them. Postgres
    // takes a limit that it does not know for a tenth of the rows, so what is found is joined to the table by an array.
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

/** The state of a host changes with a delivery: an answer ends its failures; without one it is left alone for a while. */
export async function recordHost(db: Queryable, host: string, answer: 'prompt' | 'slow' | 'none'): Promise<void> {
  const failed = answer === 'none';
  await db.execute(sql`
    insert into webhook_hosts as known (host, slow, failures, failing_since, retry_at)
    values (${host}, ${answer !== 'prompt'}, ${failed ? 1 : 0}, ${failed ? sql`now()` : null}, ${failed ? sql`now() + interval '1 second'` : null})
    on conflict (host) do update set slow = excluded.slow, changed_at = now(),
      failures = case when ${failed} then known.failures + 1 else 0 end,
      failing_since = case when ${failed} then coalesce(known.failing_since, now()) end,
      retry_at = case when ${failed}
        then now() + make_interval(secs => least(power(2, least(known.failures, 30)), ${MAX_COOL_DOWN_SECONDS})) end`);
}

/** Forgets, a batch at a time, hosts to which nothing is to be sent and of which nothing was learnt for a day. */
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

/** A webhook that is still to be delivered. */
export async function findPending(db: Queryable, id: string): Promise<Webhook | undefined> {
  const [webhook] = await db
    .select()
    .from(webhooks)
    .where(and(eq(webhooks.id, id), eq(webhooks.status, 'pending')));
  return webhook;
}

/**
 * Those of an upload or a job, each with its attempts, in the order of its ends: there is one for each time that it ended.
 * Gives `limit` at most, after the one with the id `after`.
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
