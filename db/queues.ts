import { sql } from 'drizzle-orm';
import { fromDrizzle, PgBoss } from 'pg-boss';
import packageJson from 'pg-boss/package.json' with { type: 'json' };
import type { Logger } from '../runtime/log.ts';
import type { Database, Queryable } from './client.ts';
import { connectionTo } from './connection.ts';

/** The queue of ready jobs. */
const JOB_QUEUE = 'jobs';
/** Options that keep pg-boss from retrying, expiring or dropping jobs: jobs/ decides all of that. */
const QUEUE_OPTIONS = {
  retryLimit: 0,
  retentionSeconds: 10 * 365 * 86_400,
  expireInSeconds: 86_399,
  deleteAfterSeconds: 3_600,
};

const REQUEUE_BATCH = 5_000;

/** The version of pg-boss's schema that this version of the library uses. */
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
  // A failed call rejects, too.
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

/** Queues the pg-boss jobs of all ready jobs. Those that are queued already stay as they are. */
async function requeue(boss: PgBoss): Promise<void> {
  const { rows } = await boss.getDb().executeSql("select queue_id as id from jobs where status = 'ready'");
  for (let at = 0; at < rows.length; at += REQUEUE_BATCH) {
    await boss.insert(JOB_QUEUE, rows.slice(at, at + REQUEUE_BATCH));
  }
}

/** True if a later version has upgraded pg-boss's schema, as during a rollout and after a rollback. */
async function isNewer(db: Queryable): Promise<boolean> {
  const { rows } = await db.execute<{ version: number }>(sql`select version from pgboss.version`);
  return rows.some(({ version }) => version > SCHEMA_VERSION);
}

/**
 * Opens pg-boss on our own pool. `supervise` runs its maintenance in this process: converters do, the API does not. The
 * owner calls `close()`.
 */
export async function openQueues(
  db: Database,
  { supervise, log }: { supervise: boolean; log: Logger },
): Promise<Queues> {
  const boss = new PgBoss({
    db: fromDrizzle(db, sql),
    supervise,
    schedule: false,
    // pg-boss refuses other versions of its schema unless it may migrate. It never migrates a newer schema.
    migrate: await isNewer(db),
    registerInstance: false,
  });
  boss.on('error', (error) => log.warn({ err: error }, 'pg-boss failed'));
  try {
    await boss.start();
  } catch (error) {
    await boss.stop({ graceful: false });
    throw error;
  }
  return new Queues(boss);
}

/** The pg-boss jobs that stand for ready jobs. Calls are part of the transaction `tx`. */
export class Queues {
  readonly #boss: PgBoss;

  constructor(boss: PgBoss) {
    this.#boss = boss;
  }

  async send(tx: Queryable, queueIds: string[]): Promise<void> {
    if (queueIds.length === 0) return;
    const queued = queueIds.map((id) => ({ id }));
    await this.#boss.insert(JOB_QUEUE, queued, { db: fromDrizzle(tx, sql) });
  }

  /** Removes the pg-boss jobs of jobs that start, or that are no longer ready. */
  async remove(tx: Queryable, queueIds: string[]): Promise<void> {
    if (queueIds.length === 0) return;
    await this.#boss.deleteJob(JOB_QUEUE, queueIds, { db: fromDrizzle(tx, sql) });
  }

  close(): Promise<void> {
    return this.#boss.stop({ graceful: false });
  }
}
