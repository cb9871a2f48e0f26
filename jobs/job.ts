import type { JobRow } from '../db/jobs.ts';
import type { PublicError } from '../runtime/errors.ts';

export type Job = JobRow;

/** The final outcome of a job. */
export interface End {
  job: Job;
  status: 'completed' | 'failed' | 'cancelled';
  result?: Record<string, unknown>;
  error?: PublicError;
}
