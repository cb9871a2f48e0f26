import type { Database } from '../db/client.ts';
import { isOutage } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { type Outcome, type Settlement, settleAttempts } from '../jobs/settle.ts';
import { postgresCode } from '../jobs/transition.ts';

const LARGEST_BATCH = 64;
/** Classes of Postgres's codes that say that it cannot keep what it was given, now or later: data, constraint, limit. */
const REFUSED = /^(22|23|54)/;
const UNKEEPABLE: Outcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'what it ended with cannot be stored' },
  retryable: false,
};

/**
 * Settles attempts; those that end while a settlement is under way share the next one's transaction, which made short
 * jobs twice as fast. Gives whether the attempt still owned its job. An outcome that Postgres refuses fails its job.
 */
export function createSettler(db: Database, queues: Queues) {
  type Waiting = PromiseWithResolvers<boolean> & { settlement: Settlement };
  const waiting: Waiting[] = [];
  let busy = false;

  async function settleTogether(batch: Waiting[]): Promise<void> {
    try {
      const owned = await settleAttempts(
        db,
        queues,
        batch.map(({ settlement }) => settlement),
      );
      for (const { settlement, resolve } of batch) resolve(owned.has(settlement));
    } catch (error) {
      // One that cannot be written must not take the others with it.
      const [first, ...others] = batch;
      if (others.length > 0 && !isOutage(error)) for (const one of batch) await settleTogether([one]);
      else if (first !== undefined && first.settlement.outcome !== UNKEEPABLE && REFUSED.test(postgresCode(error)))
        await settleTogether([{ ...first, settlement: { ...first.settlement, outcome: UNKEEPABLE } }]);
      else for (const { reject } of batch) reject(error);
    }
  }

  async function settleAll(): Promise<void> {
    busy = true;
    while (waiting.length > 0) await settleTogether(waiting.splice(0, LARGEST_BATCH));
    busy = false;
  }

  return (settlement: Settlement): Promise<boolean> => {
    const entry = { ...Promise.withResolvers<boolean>(), settlement };
    waiting.push(entry);
    // What ends in the same turn of the event loop goes together from the first.
    if (!busy) {
      busy = true;
      setImmediate(settleAll);
    }
    return entry.promise;
  };
}
