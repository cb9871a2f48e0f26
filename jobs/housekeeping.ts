import { and, eq, inArray, lt, lte, ne, notExists, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { forgetAnswers } from '../db/idempotency.ts';
import type { Queues } from '../db/queues.ts';
import { converters, fairShares, jobs, throughput } from '../db/schema.ts';
import type { Logger } from '../log.ts';
import { sampleQueues } from './audit.ts';
import type { AttemptKey } from './claim.ts';
import { release } from './ready.ts';
import { settleAttempts } from './settle.ts';
import { transition } from './transition.ts';

/** Any constant will do, as long as all converters agree on it. */
const HOUSEKEEPING_LOCK = 7_311_002;
const BATCH = 500;

/** A converter whose heartbeat is older than this is lost. Its heartbeats come every 3 s. */
const LOST_AFTER_SECONDS = 15;

/** One round, by whichever converter gets the advisory lock: sends due jobs, settles what lost converters held. */
export async function keepHouse(db: Database, queues: Queues, log: Logger): Promise<void> {
  await sendDueJobs(db, queues);
  for (const converter of await declareLost(db)) {
    log.warn({ converter: converter.name }, 'converter lost');
  }
  const orphaned = await orphanedAttempts(db);
  if (orphaned.length > 0) {
    const error = { code: 'converter_lost' as const, message: 'the converter that ran it went away' };
    const outcome = { kind: 'failed' as const, error, retryable: true };
    await settleAttempts(
      db,
      queues,
      orphaned.map((attempt) => ({ attempt, outcome, peakMemoryMb: null })),
    );
  }
}

/** Once in a while: history that nobody asks for is forgotten, and a sample of the queues is checked. */
export async function tidyUp(db: Database, log: Logger): Promise<void> {
  await forgetAnswers(db);
  await db.delete(fairShares).where(lt(fairShares.usedAt, sql`now() - interval '1 day'`));
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
  const astray = await sampleQueues(db);
  if (astray.length > 0) log.error({ jobs: astray }, 'jobs and pg-boss disagree; npm run audit tells more');
}

/** Runs `work` in a transaction that holds the housekeeping lock; does nothing while another holds it. */
async function asHousekeeper<T>(db: Database, nothing: T, work: (tx: Transaction) => Promise<T>): Promise<T> {
  return transition(db, async (tx) => {
    const { rows } = await tx.execute<{ got: boolean }>(
      sql`select pg_try_advisory_xact_lock(${HOUSEKEEPING_LOCK}) as got`,
    );
    return rows[0]?.got ? work(tx) : nothing;
  });
}

async function sendDueJobs(db: Database, queues: Queues): Promise<void> {
  const due = and(inArray(jobs.status, ['scheduled', 'retrying']), lte(jobs.dueAt, sql`now()`));
  const [first] = await db.select({ id: jobs.id }).from(jobs).where(due).limit(1);
  if (first === undefined) return;
  await asHousekeeper(db, undefined, async (tx) => {
    const batch = await tx
      .select({ id: jobs.id })
      .from(jobs)
      .where(due)
      .orderBy(jobs.dueAt)
      .limit(BATCH)
      .for('update', { skipLocked: true });
    await release(
      tx,
      queues,
      batch.map(({ id }) => id),
    );
  });
}

/** Not within one window after Postgres came up: after an outage of the database every heartbeat is old. */
async function declareLost(db: Database) {
  const silent = and(
    eq(converters.status, 'live'),
    lt(converters.heartbeatAt, sql`now() - make_interval(secs => ${LOST_AFTER_SECONDS})`),
    sql`pg_postmaster_start_time() < now() - make_interval(secs => ${LOST_AFTER_SECONDS})`,
  );
  // Every converter looks each second, and hardly ever finds one: that should be one statement.
  const [first] = await db.select({ id: converters.id }).from(converters).where(silent).limit(1);
  if (first === undefined) return [];
  return asHousekeeper(db, [], (tx) =>
    tx.update(converters).set({ status: 'lost' }).where(silent).returning({ name: converters.name }),
  );
}

/** Running jobs whose converter is lost, or stopped without giving them back. */
async function orphanedAttempts(db: Database): Promise<AttemptKey[]> {
  return db
    .select({
      id: jobs.id,
      attempt: jobs.attempt,
      cpuUnits: jobs.cpuUnits,
      memoryMb: jobs.memoryMb,
    })
    .from(jobs)
    .innerJoin(converters, eq(jobs.converterId, converters.id))
    .where(and(eq(jobs.status, 'running'), inArray(converters.status, ['lost', 'stopped'])))
    .limit(BATCH);
}
