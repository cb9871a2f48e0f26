import { findCurrentArchives, keepArchives } from '../conversion/archives.ts';
import type { Database, Transaction } from '../db/client.ts';
import { findJobs } from '../db/jobs.ts';
import { postgresCode } from '../db/postgres-errors.ts';
import type { Queues } from '../db/queues.ts';
import { AppError } from '../runtime/errors.ts';
import { refuseUnholdable } from './capacity.ts';
import type { Job } from './claim.ts';
import { refuseCycle } from './dependencies.ts';
import { conflict } from './exclusive.ts';
import { type NewJob, newJobId, submitJobs } from './submit.ts';
import { Moved, transition } from './transition.ts';
import { findByUniqueKey, keepUniqueKeys } from './unique.ts';

const UNIQUE_VIOLATION = '23505';

/** `isNamed`: the client chose the id. */
type Named = NewJob & { id: string; isNamed: boolean };

/**
 * Takes jobs from a client, all or none. A job whose id exists already is that job, if the client sent the same for it
 * (same `owner` and `fingerprint`), and a `conflict` otherwise. For a job whose `unique` key is in use, and for an archive
 * that is being made or has been made already, the existing job is given; an archive for which the client chose another id
 * is a `conflict`. Gives all rows in order. `record` is called in
 * the transaction, once they are stored. Throws `exceeds_capacity` (422) for a shape that no live converter could ever
 * hold, and 429 for a second archive of an upload at a time.
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
    const standIns = await findStandIns(tx, named);
    const idOf = (id: string) => standIns.get(id) ?? id;
    const fresh = named
      .filter(({ id }) => !standIns.has(id))
      .map((job) => ({ ...job, dependsOn: job.dependsOn?.map(idOf) }));
    // Jobs that share a stand-in may wait for each other.
    if (standIns.size > 0) refuseCycle(new Map(fresh.map(({ id, dependsOn = [] }) => [id, dependsOn])));
    await submitJobs(tx, queues, fresh).catch((error) => {
      // Another request has just stored a job of that id: look again.
      throw postgresCode(error) === UNIQUE_VIOLATION ? new Moved() : error;
    });
    await keepUniqueKeys(tx, fresh);
    await keepArchives(tx, fresh);
    const ids = named.map(({ id }) => idOf(id));
    const stored = await findJobs(tx, ids);
    // A stand-in was deleted since it was found.
    if (stored.length !== ids.length) throw new Moved();
    await record(tx, stored);
    return stored;
  });
}

/** By id: the jobs that need not be stored, and the job that each of them is. Throws 409 for another job of the same id. */
async function findStandIns(tx: Transaction, named: Named[]): Promise<Map<string, string>> {
  const existing = new Map(
    (
      await findJobs(
        tx,
        named.map(({ id }) => id),
      )
    ).map((job) => [job.id, job]),
  );
  for (const { id, owner = null, fingerprint } of named) {
    const known = existing.get(id);
    if (known !== undefined && (known.owner !== owner || known.fingerprint !== fingerprint)) {
      throw new AppError('conflict', `there is another job ${id} already`, { status: 409 });
    }
  }
  const standIns = new Map([...existing.keys()].map((id) => [id, id]));
  const absent = () => named.filter(({ id }) => !standIns.has(id));
  for (const [id, standIn] of await findByUniqueKey(tx, absent())) standIns.set(id, standIn);
  for (const [id, standIn] of await findCurrentArchives(tx, absent())) {
    if (named.some((job) => job.id === id && job.isNamed))
      throw conflict(`job_id: ${standIn} makes this archive already, or has made it; send no other id`);
    standIns.set(id, standIn);
  }
  return standIns;
}
