import type { Database, Transaction } from '../db/client.ts';
import { findJobs } from '../db/jobs.ts';
import type { Queues } from '../db/queues.ts';
import { refuseUnholdable } from './capacity.ts';
import { conflict } from './change-lock.ts';
import { refuseCycle } from './dependencies.ts';
import { domain, type NamedJob } from './domain.ts';
import type { Job } from './job.ts';
import { type NewJob, newJobId, submitJobs } from './submit.ts';
import { isUniqueViolation, RetryTransaction, transition } from './transition.ts';
import { findByUniqueKey, storeUniqueKeys } from './unique.ts';

/**
 * Stores jobs of a client; the batch is atomic. Returns all rows in order. A job that is a duplicate is not stored, and its
 * row is the existing job: the same id with the same owner and fingerprint, a `unique` key that is in use, or a duplicate
 * that the domain finds. Calls `record` in the transaction, once the jobs are stored. Throws `conflict` (409) for another job
 * of the same id, and `exceeds_capacity` (422) for a shape that no live converter can hold.
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
    const named = newJobs.map((job) => ({ ...job, id: job.id ?? newJobId(), isNamed: job.id !== undefined }));
    const duplicates = await findDuplicates(tx, named);
    const idOf = (id: string) => duplicates.get(id) ?? id;
    const fresh = named
      .filter(({ id }) => !duplicates.has(id))
      .map((job) => ({ ...job, dependsOn: job.dependsOn?.map(idOf) }));
    // Two jobs that are replaced by the same job may now wait for each other.
    if (duplicates.size > 0) refuseCycle(new Map(fresh.map(({ id, dependsOn = [] }) => [id, dependsOn])));
    await submitJobs(tx, queues, fresh).catch((error) => {
      // Another request has just stored a job of that id, which the next try finds.
      throw isUniqueViolation(error) ? new RetryTransaction() : error;
    });
    await storeUniqueKeys(tx, fresh);
    await domain().onAccepted(tx, fresh);
    const ids = named.map(({ id }) => idOf(id));
    const stored = await findJobs(tx, ids);
    // A duplicate was deleted after it was found.
    if (stored.length !== ids.length) throw new RetryTransaction();
    await record(tx, stored);
    return stored;
  });
}

/** Maps new jobs that need not be stored to the jobs that replace them. Throws 409 for another job of the same id. */
async function findDuplicates(tx: Transaction, named: NamedJob[]): Promise<Map<string, string>> {
  const ids = named.map(({ id }) => id);
  const existing = new Map((await findJobs(tx, ids)).map((job) => [job.id, job]));
  for (const { id, owner = null, fingerprint } of named) {
    const known = existing.get(id);
    if (known !== undefined && (known.owner !== owner || known.fingerprint !== fingerprint)) {
      throw conflict(`there is another job ${id} already`);
    }
  }
  const byId = new Map([...existing.keys()].map((id) => [id, id]));
  const byKey = await findByUniqueKey(tx, without(named, byId));
  const known = new Map([...byId, ...byKey]);
  return new Map([...known, ...(await domain().findDuplicates(tx, without(named, known)))]);
}

function without(named: NamedJob[], known: Map<string, string>): NamedJob[] {
  return named.filter(({ id }) => !known.has(id));
}
