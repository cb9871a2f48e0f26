import { and, eq, isNotNull, type SQL } from 'drizzle-orm';
import { jobs } from '../db/schema.ts';
import type { AttemptKey } from './claim.ts';

/** Columns of a running job that identify its attempt. */
export const attemptKey = { id: jobs.id, attempt: jobs.attempt, cpuUnits: jobs.cpuUnits, memoryMb: jobs.memoryMb };

/** One name for one attempt of one job. */
export function attemptName({ id, attempt }: Pick<AttemptKey, 'id' | 'attempt'>): string {
  return `${attempt} ${id}`;
}

/** That a row of `jobs` is run by this attempt, which then may write what comes of it. */
export function ownedBy({ id, attempt }: Pick<AttemptKey, 'id' | 'attempt'>): SQL | undefined {
  return and(eq(jobs.id, id), eq(jobs.attempt, attempt), eq(jobs.status, 'running'), isNotNull(jobs.converterId));
}
