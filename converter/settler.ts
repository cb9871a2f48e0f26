import type { Database } from '../db/client.ts';
import { isOutage } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { type Settlement, settleAttempts } from '../jobs/settle.ts';

const LARGEST_BATCH = 64;

/**
 * Settles attempts; those that end while a settlement is under way share the next one's transaction, which made short
 * jobs twice as fast. Gives whether the attempt still owned its job.
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
      for (const { settlement, resolve } of batch) resolve(owned.has(settlement.attempt.queueId));
    } catch (error) {
      // One that cannot be written must not take the others with it.
      if (batch.length > 1 && !isOutage(error)) for (const one of batch) await settleTogether([one]);
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
