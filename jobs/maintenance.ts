import { and, eq, lt, ne, notExists, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { forgetAnswers } from '../db/idempotency.ts';
import { isOutage } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import { bulkOperations, converters, fairShares, jobAttempts, jobs, throughput } from '../db/schema.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { attemptKey } from './attempt.ts';
import { advanceBulk } from './bulk.ts';
import type { AttemptKey } from './claim.ts';
import { advanceDependants } from './dependants.ts';
import { findLostConverters, orphanedAttempts } from './lost-converters.ts';
import { isOverdue } from './overdue.ts';
import { repairQueues } from './repair.ts';
import { settleAttempts } from './settle.ts';
import { deleteExpiredKeys } from './unique.ts';

const MAX_ATTEMPTS = 500;

const LOST: PublicError = { code: 'converter_lost', message: 'the converter that ran the job was lost' };

/**
 * One round of the leader: declares converters lost, and settles their attempts and those that have exceeded their timeout.
 * Does nothing while another converter holds the lock. After an outage, converters get 15 s to send a
 * heartbeat again.
 */
export async function maintain(db: Database, queues: Queues, log: Logger): Promise<void> {
  const found = await findLostConverters(db);
  if (found === undefined) return;
  for (const name of found.lost) log.warn({ converter: name }, 'converter lost');
  await settleAsFailed(db, queues, log, await orphanedAttempts(db, MAX_ATTEMPTS), () => LOST);
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

/** Running attempts that have exceeded their timeout, because their converter hangs. */
async function overdueAttempts(db: Database): Promise<(AttemptKey & { timeoutSeconds: number })[]> {
  return db
    .select({ ...attemptKey, timeoutSeconds: jobs.timeoutSeconds })
    .from(jobs)
    .innerJoin(jobAttempts, and(eq(jobAttempts.jobId, jobs.id), eq(jobAttempts.attempt, jobs.attempt)))
    .where(isOverdue)
    .limit(MAX_ATTEMPTS);
}
