import type { Database, Transaction } from '../db/client.ts';
import { findJobs } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { AppError } from '../errors.ts';
import { refuseUnholdable } from './capacity.ts';
import type { Job } from './claim.ts';
import { type NewJob, submitJobs } from './submit.ts';
import { Moved, postgresCode, transition } from './transition.ts';

const UNIQUE_VIOLATION = '23505';

/**
 * Takes jobs from a client, all or none. A job whose id exists already is that job, if the client sent the same for it
 * (same `owner` and `fingerprint`), and a `conflict` otherwise. Gives all rows in order. `record` is called in the transaction, once
 * they are stored. Throws `exceeds_capacity` (422) for a shape that no live converter could ever hold.
 */
export async function acceptJobs(
  db: Database,
  queues: Queues,
  newJobs: NewJob[],
  record: (tx: Transaction, jobs: Job[]) => Promise<void> = async () => undefined,
): Promise<Job[]> {
  await refuseUnholdable(
    db,
    newJobs.map(({ shape }) => shape),
  );
  return transition(db, async (tx) => {
    const existing = new Map(
      (
        await findJobs(
          tx,
          newJobs.flatMap(({ id }) => id ?? []),
        )
      ).map((job) => [job.id, job]),
    );
    for (const { id, owner = null, fingerprint } of newJobs) {
      const known = id === undefined ? undefined : existing.get(id);
      if (known !== undefined && (known.owner !== owner || known.fingerprint !== fingerprint)) {
        throw new AppError('conflict', `there is another job ${id} already`, { status: 409 });
      }
    }
    const stored = await submitJobs(
      tx,
      queues,
      newJobs.filter(({ id }) => id === undefined || !existing.has(id)),
    ).catch((error) => {
      // Another request has just stored a job of that id: look again.
      throw postgresCode(error) === UNIQUE_VIOLATION ? new Moved() : error;
    });
    const fresh = (await findJobs(tx, stored)).values();
    const all = newJobs.map(
      ({ id }) => (id === undefined ? undefined : existing.get(id)) ?? (fresh.next().value as Job),
    );
    await record(tx, all);
    return all;
  });
}
