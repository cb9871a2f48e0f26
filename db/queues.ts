import { sql } from 'drizzle-orm';
import { fromDrizzle, PgBoss } from 'pg-boss';
import packageJson from 'pg-boss/package.json' with { type: 'json' };
import type { Logger } from '../log.ts';
import type { Database, Queryable } from './client.ts';
import { connectionTo } from './connection.ts';

/** pg-boss never retries, expires or drops a job by itself: all of that is decided in jobs/. */
const QUEUE_OPTIONS = {
  retryLimit: 0,
  retentionSeconds: 10 * 365 * 86_400,
  expireInSeconds: 86_399,
  deleteAfterSeconds: 3_600,
};

/** The queue into which pg-boss's scheduler sends; a delivery that fails is tried again. */
const CRON_QUEUE = 'cron';
const CRON_OPTIONS = { retryLimit: 20, retryDelay: 2, retryBackoff: true, retryDelayMax: 60, expireInSeconds: 60 };

/**
 * Webhooks that are to be delivered, under the ids of their rows; what becomes of a try is decided in jobs/webhooks.ts.
 * One that was taken and is not settled in time, as its API was killed, pg-boss gives back.
 */
const WEBHOOK_QUEUE = 'webhooks';
const WEBHOOK_OPTIONS = { ...QUEUE_OPTIONS, retryLimit: 1_000, retryDelay: 1, expireInSeconds: 30 };

/** A recurring job. `data` is the scheduler's to keep and ours to read. */
export interface Schedule<Data = unknown> {
  name: string;
  cron: string;
  timezone: string;
  data: Data;
  createdAt: Date;
}

/** The version of pg-boss's schema that this version of the library was made for. */
const SCHEMA_VERSION: number = packageJson.pgboss.schema;

/**
 * Most queues are empty when Postgres takes its statistics, and the plan for what it takes to be one row read all of a
 * queue 32 times over (65 ms a claim, not 3). Without statistics of the names it expects some rows in any queue.
 */
export const STEADY_PLANS = `do $$ begin
  alter table pgboss.job_common alter column name set statistics 0;
exception when undefined_table or undefined_column or invalid_schema_name then
  -- Plans are slower where a newer pg-boss has renamed it, which must not stop a start.
  null;
end $$`;

/** Installs or upgrades pg-boss's own schema, and the queue that transactions send to without making it. */
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
    await boss.createQueue(WEBHOOK_QUEUE, WEBHOOK_OPTIONS);
  } finally {
    await boss.stop({ graceful: false });
  }
}

/** Whether a later version has upgraded pg-boss's schema: during a rollout and after a rollback this one works with it. */
async function isNewer(db: Queryable): Promise<boolean> {
  const { rows } = await db.execute<{ version: number }>(sql`select version from pgboss.version`);
  return rows.some(({ version }) => version > SCHEMA_VERSION);
}

export type Queues = Awaited<ReturnType<typeof openQueues>>;

/**
 * pg-boss on our own pool: the one place that knows it. Every call that takes `tx` is part of that transaction.
 * `supervise` runs pg-boss's maintenance here (converters do, the API does not). The owner calls `close()`.
 */
export async function openQueues(
  db: Database,
  { supervise, schedule = false, log }: { supervise: boolean; schedule?: boolean; log: Logger },
) {
  const boss = new PgBoss({
    db: fromDrizzle(db, sql),
    supervise,
    schedule,
    cronMonitorIntervalSeconds: 5,
    cronWorkerIntervalSeconds: 2,
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
  const known = new Set<string>();

  return {
    /** Makes a queue that is not there yet. Takes no transaction: call it before the one that sends. */
    async ensure(name: string): Promise<void> {
      if (known.has(name)) return;
      await boss.createQueue(name, QUEUE_OPTIONS);
      known.add(name);
    },
    /** Sends jobs that may start now; `rank` orders them, higher first. */
    async send(tx: Queryable, name: string, jobs: { queueId: string; rank: number }[]): Promise<void> {
      await boss.insert(
        name,
        jobs.map(({ queueId, rank }) => ({ id: queueId, priority: rank })),
        { db: fromDrizzle(tx, sql) },
      );
    },
    /** Takes up to `count` jobs of at least this rank, best first, and locks them for this transaction. Gives their queue ids. */
    async fetch(
      tx: Queryable,
      name: string,
      { count, minRank }: { count: number; minRank?: number | undefined },
    ): Promise<string[]> {
      const fetched = await boss.fetch(name, {
        batchSize: count,
        ...(minRank !== undefined && { minPriority: minRank }),
        db: fromDrizzle(tx, sql),
      });
      return fetched.map(({ id }) => id);
    },
    /** Removes jobs, claimed or not: each id stands for one attempt at most, so that nobody else's can be hit. */
    async remove(tx: Queryable, name: string, queueIds: string[]): Promise<void> {
      await boss.deleteJob(name, queueIds, { db: fromDrizzle(tx, sql) });
    },
    /**
     * Sends webhooks that are to be delivered `afterSeconds` from now; `host` is the receiver's. Those that were tried less
     * often go first, so that receivers that fail do not hold up what is new.
     */
    async sendWebhooks(
      tx: Queryable,
      webhooks: { id: string; host: string; tries: number; afterSeconds: number }[],
    ): Promise<void> {
      await boss.insert(
        WEBHOOK_QUEUE,
        webhooks.map(({ id, host, tries, afterSeconds }) => ({
          id,
          group: { id: host },
          priority: -tries,
          startAfter: afterSeconds,
        })),
        { db: fromDrizzle(tx, sql) },
      );
    },
    /**
     * Takes up to `count` webhooks that are due, so that no host has more than `perHost` at work in all processes
     * together. Gives their ids; each is to be removed within half a minute, or others take it, too.
     */
    async takeWebhooks(count: number, perHost: number): Promise<string[]> {
      const taken = await boss.fetch(WEBHOOK_QUEUE, { batchSize: count, groupConcurrency: perHost });
      return taken.map(({ id }) => id);
    },
    async removeWebhook(tx: Queryable, id: string): Promise<void> {
      await boss.deleteJob(WEBHOOK_QUEUE, id, { db: fromDrizzle(tx, sql) });
    },
    /**
     * Calls `onOccurrence` with an id that is the occurrence's own and the schedule's data, at least once for each; again
     * when it rejects. For processes that were opened with `schedule`: several share the work.
     */
    async followSchedules(onOccurrence: (id: string, data: unknown) => Promise<void>): Promise<void> {
      await boss.createQueue(CRON_QUEUE, CRON_OPTIONS);
      await boss.work(CRON_QUEUE, { pollingIntervalSeconds: 2 }, async ([job]) => {
        if (job !== undefined) await onOccurrence(job.id, job.data);
      });
    },
    /** Makes or replaces a schedule. Throws what is wrong with the expression or the time zone. */
    async putSchedule(name: string, { cron, timezone, data }: { cron: string; timezone: string; data: object }) {
      await boss.createQueue(CRON_QUEUE, CRON_OPTIONS);
      await boss.schedule(CRON_QUEUE, cron, data, { tz: timezone, key: name });
    },
    async listSchedules(): Promise<Schedule[]> {
      const found = await boss.getSchedules(CRON_QUEUE);
      return found.map(({ key, cron, timezone, data, createdOn }) => ({
        name: key,
        cron,
        timezone,
        data,
        createdAt: new Date(createdOn),
      }));
    },
    removeSchedule: (name: string) => boss.unschedule(CRON_QUEUE, name),
    close: () => boss.stop({ graceful: false }),
  };
}
