import { sql } from 'drizzle-orm';
import { fromDrizzle, PgBoss } from 'pg-boss';
import packageJson from 'pg-boss/package.json' with { type: 'json' };
import type { Logger } from '../runtime/log.ts';
import type { Database, Queryable } from './client.ts';
import { connectionTo } from './connection.ts';

/** The queue of ready jobs. */
const JOB_QUEUE = 'jobs';
/** pg-boss never retries, expires or drops a job by itself: all of that is decided in jobs/. */
const QUEUE_OPTIONS = {
  retryLimit: 0,
  retentionSeconds: 10 * 365 * 86_400,
  expireInSeconds: 86_399,
  deleteAfterSeconds: 3_600,
};

const REQUEUE_BATCH = 5_000;

/** The version of pg-boss's schema that this version of the library was made for. */
const SCHEMA_VERSION: number = packageJson.pgboss.schema;

/** Installs or upgrades pg-boss's own schema. */
export async function installQueues(url: string): Promise<void> {
  const boss = new PgBoss({
    ...connectionTo(url, { name: 'sheetmill-migrate' }),
    max: 1,
    supervise: false,
    schedule: false,
    registerInstance: false,
  });
  boss.on('error', () => undefined);
  try {
    await boss.start();
    await boss.createQueue(JOB_QUEUE, QUEUE_OPTIONS);
    // Earlier versions had a queue for each shape.
    const old = (await boss.getQueues()).filter(({ name }) => name.startsWith('jobs.c'));
    for (const { name } of old) await boss.deleteQueue(name);
    if (old.length > 0) await requeue(boss);
  } finally {
    await boss.stop({ graceful: false });
  }
}

/** Queues the pg-boss jobs of all ready jobs. One that is queued already stays as it is. */
async function requeue(boss: PgBoss): Promise<void> {
  const { rows } = await boss.getDb().executeSql("select queue_id as id from jobs where status = 'ready'");
  for (let at = 0; at < rows.length; at += REQUEUE_BATCH) {
    await boss.insert(JOB_QUEUE, rows.slice(at, at + REQUEUE_BATCH));
  }
}

/** True if a later version has upgraded pg-boss's schema: during a rollout and after a rollback this one works with it. */
async function isNewer(db: Queryable): Promise<boolean> {
  const { rows } = await db.execute<{ version: number }>(sql`select version from pgboss.version`);
  return rows.some(({ version }) => version > SCHEMA_VERSION);
}

export type Queues = Awaited<ReturnType<typeof openQueues>>;

/**
 * pg-boss on our own pool: the one place that knows it. Every call that takes `tx` is part of that transaction.
 * `supervise` runs pg-boss's maintenance here (converters do, the API does not). The owner calls `close()`.
 */
export async function openQueues(db: Database, { supervise, log }: { supervise: boolean; log: Logger }) {
  const boss = new PgBoss({
    db: fromDrizzle(db, sql),
    supervise,
    schedule: false,
    // pg-boss refuses every version but its own unless it may migrate, and it never migrates a newer schema.
    migrate: await isNewer(db),
    registerInstance: false,
  });
  boss.on('error', (error) => log.warn({ err: error }, 'pg-boss'));
  try {
    await boss.start();
  } catch (error) {
    await boss.stop({ graceful: false });
    throw error;
  }

  return {
    /** Queues the pg-boss jobs that stand for ready jobs. */
    async send(tx: Queryable, queueIds: string[]): Promise<void> {
      if (queueIds.length === 0) return;
      await boss.insert(
        JOB_QUEUE,
        queueIds.map((id) => ({ id })),
        { db: fromDrizzle(tx, sql) },
      );
    },
    /** Takes pg-boss jobs out of the queue: those of jobs that start, or are no longer ready. */
    async remove(tx: Queryable, queueIds: string[]): Promise<void> {
      if (queueIds.length === 0) return;
      await boss.deleteJob(JOB_QUEUE, queueIds, { db: fromDrizzle(tx, sql) });
    },
    close: () => boss.stop({ graceful: false }),
  };
}
