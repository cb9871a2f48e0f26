import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { lockInTransaction } from '../db/locks.ts';

/** A converter that makes room renews its lease in each round of its claim loop, once a second at least. */
const LEASE_SECONDS = 5;

/**
 * Takes or renews the lease to drain this converter for a large job. One converter holds it at a time: the one on which the
 * job fits first. Returns true if this converter holds it.
 * @param startsAt the latest time at which the job fits here, in ms since 1970
 */
export async function takeDrainLease(db: Database, converterId: string, startsAt: number): Promise<boolean> {
  return db.transaction(async (tx) => {
    await lockInTransaction(tx, 'drainLease');
    const { rows } = await tx.execute<{ id: string }>(sql`
      update converters set
        drains_until = case when id = ${converterId} then now() + make_interval(secs => ${LEASE_SECONDS}) end,
        drained_at = case when id = ${converterId} then to_timestamp(${startsAt / 1_000}) end
      where (id = ${converterId} or drains_until > now()) and status = 'live' and not exists (
        select 1 from converters other where other.id <> ${converterId} and other.status = 'live'
          and other.drains_until > now() and other.drained_at <= to_timestamp(${startsAt / 1_000}))
      returning id`);
    return rows.some(({ id }) => id === converterId);
  });
}
