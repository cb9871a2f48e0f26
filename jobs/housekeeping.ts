import { and, eq, inArray, isNotNull, lt, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { converters, jobs } from '../db/schema.ts';
import type { Logger } from '../log.ts';
import type { AttemptKey } from './claim.ts';
import { settle } from './settle.ts';
import { queueName } from './shape.ts';
import { ensureQueues } from './submit.ts';
import { transition } from './transition.ts';
import { WAKE_CHANNEL } from './wake.ts';

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
  for (const attempt of await orphanedAttempts(db)) {
    await settle(
      db,
      queues,
      attempt,
      {
        kind: 'failed',
        error: { code: 'converter_lost', message: 'the converter that ran it went away' },
        retryable: true,
      },
      null,
    );
  }
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
  const due = await db
    .select({ cpuUnits: jobs.cpuUnits, memoryMb: jobs.memoryMb })
    .from(jobs)
    .where(and(inArray(jobs.status, ['scheduled', 'retrying']), sql`${jobs.runAt} <= now()`))
    .limit(BATCH);
  if (due.length === 0) return;
  await ensureQueues(queues, due);
  await asHousekeeper(db, undefined, async (tx) => {
    const sent = await tx
      .update(jobs)
      .set({ status: 'ready', queueId: sql`gen_random_uuid()`, runAt: null })
      .where(
        inArray(
          jobs.id,
          tx
            .select({ id: jobs.id })
            .from(jobs)
            .where(and(inArray(jobs.status, ['scheduled', 'retrying']), sql`${jobs.runAt} <= now()`))
            .orderBy(jobs.runAt)
            .limit(BATCH)
            .for('update', { skipLocked: true }),
        ),
      )
      .returning({ queueId: jobs.queueId, rank: jobs.rank, cpuUnits: jobs.cpuUnits, memoryMb: jobs.memoryMb });
    for (const [name, batch] of Map.groupBy(sent, queueName)) {
      await queues.send(tx, name, batch as { queueId: string; rank: number }[]);
    }
    await tx.execute(sql`select pg_notify(${WAKE_CHANNEL}, '')`);
  });
}

/** Not within one window after Postgres came up: after an outage of the database every heartbeat is old. */
async function declareLost(db: Database) {
  return asHousekeeper(db, [], (tx) =>
    tx
      .update(converters)
      .set({ status: 'lost' })
      .where(
        and(
          eq(converters.status, 'live'),
          lt(converters.heartbeatAt, sql`now() - make_interval(secs => ${LOST_AFTER_SECONDS})`),
          sql`pg_postmaster_start_time() < now() - make_interval(secs => ${LOST_AFTER_SECONDS})`,
        ),
      )
      .returning({ name: converters.name }),
  );
}

/** Running jobs whose converter is lost, or stopped without giving them back. */
async function orphanedAttempts(db: Database): Promise<AttemptKey[]> {
  const rows = await db
    .select({
      id: jobs.id,
      queueId: jobs.queueId,
      attempt: jobs.attempt,
      cpuUnits: jobs.cpuUnits,
      memoryMb: jobs.memoryMb,
    })
    .from(jobs)
    .innerJoin(converters, eq(jobs.converterId, converters.id))
    .where(and(eq(jobs.status, 'running'), isNotNull(jobs.queueId), inArray(converters.status, ['lost', 'stopped'])))
    .limit(BATCH);
  return rows as AttemptKey[];
}
