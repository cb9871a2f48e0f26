import { and, eq, inArray, lt, ne, notExists, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { forgetAnswers } from '../db/idempotency.ts';
import { tryLockInTransaction } from '../db/locks.ts';
import { isOutage } from '../db/postgres-errors.ts';
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

const MAX_ATTEMPTS_A_ROUND = 500;

/** A converter whose heartbeat is older than this is lost. It sends one every 3 s. */
const LOST_AFTER_SECONDS = 15;
/** Rounds take place each second: after a longer gap no converter reached Postgres, so that every heartbeat may be old. */
const MAX_GAP_SECONDS = 5;
/** Only the first converter in each second does the round. */
const MIN_ROUND_SECONDS = 0.9;

const seconds = (count: number) => sql`make_interval(secs => ${count})`;

const LOST: PublicError = { code: 'converter_lost', message: 'the converter that ran the job was lost' };

/**
 * One round of the leader: declares converters lost, and settles their attempts and those that have exceeded their timeout.
 * Does nothing while another converter holds the lock. After an outage, converters get `LOST_AFTER_SECONDS` to send a
 * heartbeat again.
 */
export async function maintain(db: Database, queues: Queues, log: Logger): Promise<void> {
  const found = await findLost(db);
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
 * Continues background work in steps of less than a second: changes of dependants, and bulk operations. Returns when none is
 * left, or `signal` is aborted. Several processes share the steps.
 */
export async function continueChanges(db: Database, queues: Queues, log: Logger, signal?: AbortSignal): Promise<void> {
  for (let more = true; more && !signal?.aborted; ) {
    const placed = await advanceDependants(db, queues, log);
    const changed = await advanceBulk(db, queues, log);
    more = placed || changed;
  }
}

/** True while such work exists, so that jobs may change that have ended. */
export async function isChanging(db: Database): Promise<boolean> {
  const { rows } = await db.execute<{ found: boolean }>(sql`
    select exists (select from bulk_operations where status = 'running')
      or exists (select from pending_outcomes) as found`);
  return rows[0]?.found === true;
}

/** Deletes expired rows, and checks a sample of the queues. */
export async function pruneHistory(db: Database, queues: Queues, log: Logger): Promise<void> {
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

/** Records the round, and declares converters lost. Returns undefined when another converter does the round. */
async function findLost(db: Database): Promise<{ lost: string[]; isSteady: boolean } | undefined> {
  const { rows: recent } = await db.execute(sql`
    select from maintenance where last_seen_at between now() - ${seconds(MIN_ROUND_SECONDS)} and now()`);
  if (recent.length > 0) return undefined;
  return transition(db, async (tx) => {
    if (!(await tryLockInTransaction(tx, 'maintenance'))) return undefined;
    const isSteady = await recordRound(tx);
    return { lost: isSteady ? await declareLost(tx) : [], isSteady };
  });
}

/**
 * Returns true if rounds took place without a gap for as long as a heartbeat may be late. The row survives a change of the
 * leader, and every outage of Postgres or the network leaves a gap. A time in the future comes from a primary with another
 * clock, after a failover.
 */
async function recordRound(tx: Transaction): Promise<boolean> {
  const { rows } = await tx.execute<{ steady: boolean }>(sql`
    insert into maintenance as watch (id, last_seen_at, watched_since) values (1, now(), now())
    on conflict (id) do update set last_seen_at = now(), watched_since =
      case when watch.last_seen_at between now() - ${seconds(MAX_GAP_SECONDS)} and now() then watch.watched_since else now() end
    returning watched_since <= now() - ${seconds(LOST_AFTER_SECONDS)} as steady`);
  return rows[0]?.steady === true;
}

/** Skips locked rows: the converter may be sending a heartbeat or claiming. */
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

/** Settles attempts as failed: all together, or one by one if that fails. */
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
    // Any other error occurs again for a single attempt, which is logged.
    if (isOutage(error)) throw error;
  }
  for (const settlement of settlements) {
    await settleAttempts(db, queues, [settlement]).catch((error) => {
      if (isOutage(error)) throw error;
      log.error({ err: error, job: settlement.attempt.id }, 'attempt could not be settled');
    });
  }
}

/** Running attempts whose converter is lost, or stopped without returning them. */
async function orphanedAttempts(db: Database): Promise<AttemptKey[]> {
  return db
    .select(attemptKey)
    .from(jobs)
    .innerJoin(converters, eq(jobs.converterId, converters.id))
    .where(and(eq(jobs.status, 'running'), inArray(converters.status, ['lost', 'stopped'])))
    .limit(MAX_ATTEMPTS_A_ROUND);
}

/** Running attempts that have exceeded their timeout, because their converter hangs. */
async function overdueAttempts(db: Database): Promise<(AttemptKey & { timeoutSeconds: number })[]> {
  return db
    .select({ ...attemptKey, timeoutSeconds: jobs.timeoutSeconds })
    .from(jobs)
    .innerJoin(jobAttempts, and(eq(jobAttempts.jobId, jobs.id), eq(jobAttempts.attempt, jobs.attempt)))
    .where(isOverdue)
    .limit(MAX_ATTEMPTS_A_ROUND);
}
