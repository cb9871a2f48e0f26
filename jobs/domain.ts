import type { SQL } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import type { Child } from './children.ts';
import type { End, Job } from './job.ts';
import type { NewJob } from './submit.ts';

/** A job of a client that is about to be stored. */
export type NamedJob = NewJob & {
  id: string;
  /** The client chose the id. */
  isNamed: boolean;
};

/**
 * The hooks of the code that owns the jobs' meaning. The engine calls them in its transactions, so that the rows of the
 * domain change together with the jobs. A hook locks rows of the domain in one order, and after the rows of the jobs.
 */
export interface Domain {
  /** Part of the statement that starts jobs: changes rows of the domain for the rows of `claimed`. */
  whenStarted: SQL;
  /** A job has ended; the engine changes its parent afterwards. */
  onEnded(tx: Transaction, end: End): Promise<void>;
  /** True if a completed job has work that failed, so that it may run again. */
  isRetryable(tx: Transaction, job: Job): Promise<boolean>;
  /**
   * A job is about to run again, with those of its children that did not complete. Returns the parts of the remaining
   * work, which new children run.
   */
  beforeRetry(tx: Transaction, job: Job, children: Job[]): Promise<Child[]>;
  /** A job that had ended runs again, or waits to run again. */
  onRetried(tx: Transaction, job: Job): Promise<void>;
  /** Maps new jobs to jobs, stored or before them in the list, that do the same. */
  findDuplicates(tx: Transaction, jobs: NamedJob[]): Promise<Map<string, string>>;
  /** Jobs of a client were stored. Throws `RetryTransaction` when their duplicates were stored meanwhile. */
  onAccepted(tx: Transaction, jobs: NamedJob[]): Promise<void>;
}

let registered: Domain | undefined;

/** Each process calls this once, before it uses the engine. */
export function registerDomain(domain: Domain): void {
  registered = domain;
}

export function domain(): Domain {
  if (registered === undefined) throw new Error('registerDomain was not called');
  return registered;
}
