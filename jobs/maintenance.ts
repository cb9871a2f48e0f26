import { and, eq, inArray, lt, ne, notExists, sql } from 'drizzle-orm';
import { type Database, isOutage, type Transaction } from '../db/client.ts';
import { forgetAnswers } from '../db/idempotency.ts';
import type { Queues } from '../db/queues.ts';
import { bulkOperations, converters, fairShares, jobAttempts, jobs, throughput } from '../db/schema.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { attemptKey } from './attempt.ts';
import { advanceBulk } from './bulk.ts';
import type { AttemptKey } from './claim.ts';
import { advanceDependants } from './dependants.ts';
import { isOverdue } from './overdue.ts';
import { repairQueues } from './repair.ts';
import { settleAttempts } from './settle.ts';
import { transition } from './transition.ts';
import { deleteExpiredKeys } from './unique.ts';

/** Any constant will do, as long as all converters agree on it. */
const MAINTENANCE_LOCK = 7_311_002;
const MAX_ATTEMPTS_A_ROUND = 500;

/** A converter whose heartbeat is older than this is lost. Its heartbeats come every 3 s. */
const LOST_AFTER_SECONDS = 15;
/** A round comes each second: a longer gap means that no converter reached Postgres, so that every heartbeat may be old. */
const MAX_GAP_SECONDS = 5;
/** Converters that look in the same second leave the round to the first of them. */
const MIN_ROUND_SECONDS = 0.9;

const seconds = (count: number) => sql`make_interval(secs => ${count})`;

const LOST: PublicError = { code: 'converter_lost', message: 'the converter that ran it went away' };

/**
 * One round of the leader: declares converters lost, and settles the attempts that they held and those that have outrun
 * their timeout. Nothing happens while another converter has the lock. After an outage, converters first get as much time
 * to come back as a heartbeat may take in ordinary times.
 */
export async function maintain(db: Database, queues: Queues, log: Logger): Promise<void> {
  const found = await watch(db);
  if (found === undefined) return;
  for (const name of found.lost) log.warn({ converter: name }, 'converter lost');
  await settleAsFailed(db, queues, log, await orphanedAttempts(db), () => LOST);
  if (!found.isSteady) return;
  await settleAsFailed(db, queues, log, await overdueAttempts(db), ({ timeoutSeconds }) => ({
    code: 'timeout',
    message: `took longer than ${timeoutSeconds} s`,
  }));
}

/**
 * Continues what transactions have left to be done in steps of less than a second: dependants and bulk operations. Ends
 * when nothing is left, or `signal` aborts. Several processes share the steps.
 */
export async function continueChanges(db: Database, queues: Queues, log: Logger, signal?: AbortSignal): Promise<void> {
  for (let more = true; more && !signal?.aborted; ) {
    const placed = await advanceDependants(db, queues, log);
    const changed = await advanceBulk(db, queues, log);
    more = placed || changed;
  }
}

/** True if there are such changes, so that jobs that have ended may be retried or deleted in the background. */
export async function isChanging(db: Database): Promise<boolean> {
  const { rows } = await db.execute<{ found: boolean }>(sql`
    select exists (select from bulk_operations where status = 'running')
      or exists (select from pending_outcomes) as found`);
  return rows[0]?.found === true;
}

/** Once in a while: history that nobody asks for is forgotten, and a sample of the queues is checked. */
export async function tidyUp(db: Database, queues: Queues, log: Logger): Promise<void> {
  await forgetAnswers(db);
  await deleteExpiredKeys(db);
  await db.delete(fairShares).where(lt(fairShares.usedAt, sql`now() - interval '1 day'`));
  await db.delete(bulkOperations).where(lt(bulkOperations.finishedAt, sql`now() - interval '1 day'`));
  await db.delete(throughput).where(lt(throughput.minute, sql`now() - interval '1 day'`));
  await db.delete(converters).where(
    and(
      ne(converters.status, 'live'),
      lt(converters.heartbeatAt, sql`now() - interval '1 day'`),
      notExists(
        db
          .select({ id: jobs.id })
          .from(jobs)
          .where(and(eq(jobs.status, 'running'), eq(jobs.converterId, converters.id))),
      ),
    ),
  );
  const repaired = await repairQueues(db, queues);
  if (repaired.sent.length + repaired.removed.length > 0) log.error(repaired, 'jobs and pg-boss disagreed; repaired');
}

/** Notes that a round takes place, and declares converters lost. Gives nothing when this is not the time for a round. */
async function watch(db: Database): Promise<{ lost: string[]; isSteady: boolean } | undefined> {
  const { rows: recent } = await db.execute(sql`
    select from maintenance where last_seen_at between now() - ${seconds(MIN_ROUND_SECONDS)} and now()`);
  if (recent.length > 0) return undefined;
  return transition(db, async (tx) => {
    const { rows } = await tx.execute<{ got: boolean }>(
      sql`select pg_try_advisory_xact_lock(${MAINTENANCE_LOCK}) as got`,
    );
    if (!rows[0]?.got) return undefined;
    const isSteady = await noteRound(tx);
    return { lost: isSteady ? await declareLost(tx) : [], isSteady };
  });
}

/**
 * Gives whether the heartbeats have been watched for as long as one may be late. The watch is a row in Postgres, so that it
 * survives a change of the leader, and every outage interrupts it: of Postgres, of the network, a failover. A time in the
 * future comes from a primary with another clock.
 */
async function noteRound(tx: Transaction): Promise<boolean> {
  const { rows } = await tx.execute<{ steady: boolean }>(sql`
    insert into maintenance as watch (id, last_seen_at, watched_since) values (1, now(), now())
    on conflict (id) do update set last_seen_at = now(), watched_since =
      case when watch.last_seen_at between now() - ${seconds(MAX_GAP_SECONDS)} and now() then watch.watched_since else now() end
    returning watched_since <= now() - ${seconds(LOST_AFTER_SECONDS)} as steady`);
  return rows[0]?.steady === true;
}

/** A row that is locked is left alone: its converter's own heartbeat, or a claim of it, may be waiting just now. */
async function declareLost(tx: Transaction): Promise<string[]> {
  const silent = await tx
    .select({ id: converters.id })
    .from(converters)
    .where(and(eq(converters.status, 'live'), lt(converters.heartbeatAt, sql`now() - ${seconds(LOST_AFTER_SECONDS)}`)))
    .for('update', { skipLocked: true });
  if (silent.length === 0) return [];
  const ids = silent.map(({ id }) => id);
  const lost = await tx
    .update(converters)
    .set({ status: 'lost' })
    .where(sql`${converters.id} = any(${sql.param(ids)}::uuid[])`)
    .returning({ name: converters.name });
  return lost.map(({ name }) => name);
}

/** Settles each attempt as failed: all of them together, or one by one when they cannot be settled together. */
async function settleAsFailed<Attempt extends AttemptKey>(
  db: Database,
  queues: Queues,
  log: Logger,
  attempts: Attempt[],
  errorOf: (attempt: Attempt) => PublicError,
): Promise<void> {
  if (attempts.length === 0) return;
  const settlements = attempts.map((attempt) => {
    const outcome = { kind: 'failed' as const, error: errorOf(attempt), retryable: true };
    return { attempt, outcome, peakMemoryMb: null };
  });
  try {
    await settleAttempts(db, queues, settlements);
    return;
  } catch (error) {
    if (isOutage(error)) throw error;
  }
  for (const settlement of settlements) {
    await settleAttempts(db, queues, [settlement]).catch((error) => {
      if (isOutage(error)) throw error;
      log.error({ err: error, job: settlement.attempt.id }, 'attempt not settled');
    });
  }
}

/** Running jobs whose converter is lost, or stopped without giving them back. */
async function orphanedAttempts(db: Database): Promise<AttemptKey[]> {
  return db
    .select(attemptKey)
    .from(jobs)
    .innerJoin(converters, eq(jobs.converterId, converters.id))
    .where(and(eq(jobs.status, 'running'), inArray(converters.status, ['lost', 'stopped'])))
    .limit(MAX_ATTEMPTS_A_ROUND);
}

/** Running attempts that have outrun their timeout, although their converter lives: it hangs. */
async function overdueAttempts(db: Database): Promise<(AttemptKey & { timeoutSeconds: number })[]> {
  return db
    .select({ ...attemptKey, timeoutSeconds: jobs.timeoutSeconds })
    .from(jobs)
    .innerJoin(jobAttempts, and(eq(jobAttempts.jobId, jobs.id), eq(jobAttempts.attempt, jobs.attempt)))
    .where(isOverdue)
    .limit(MAX_ATTEMPTS_A_ROUND);
}
