import { and, eq, inArray, lt, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../db/client.ts';
import { tryLockInTransaction } from '../db/locks.ts';
import { converters, jobs } from '../db/schema.ts';
import { attemptKey } from './attempt.ts';
import type { AttemptKey } from './claim.ts';
import { transition } from './transition.ts';

/** A converter whose heartbeat is older than this is lost. It sends one every 3 s. */
const LOST_AFTER_SECONDS = 15;
/** Rounds take place each second: after a longer gap no converter reached Postgres, so that every heartbeat may be old. */
const MAX_GAP_SECONDS = 5;
/** Only the first converter in each second does the round. */
const MIN_ROUND_SECONDS = 0.9;

const seconds = (count: number) => sql`make_interval(secs => ${count})`;

/** Records the round, and declares converters lost. Returns undefined when another converter does the round. */
export async function findLostConverters(db: Database): Promise<{ lost: string[]; isSteady: boolean } | undefined> {
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

/** Running attempts whose converter is lost, or stopped without returning them. */
export async function orphanedAttempts(db: Database, limit: number): Promise<AttemptKey[]> {
  return db
    .select(attemptKey)
    .from(jobs)
    .innerJoin(converters, eq(jobs.converterId, converters.id))
    .where(and(eq(jobs.status, 'running'), inArray(converters.status, ['lost', 'stopped'])))
    .limit(limit);
}
