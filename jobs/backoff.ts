import type { Job } from './job.ts';

/** A job with many attempts must run again soon after the cause of its failures is repaired. */
const MAX_DELAY_SECONDS = 3_600;
/** Half of the delay is random, so that jobs that failed together do not load a recovering service together. */
const JITTER = 0.5;

/** True while the job has attempts left after one that fails. */
export function hasAttemptsLeft({ failures, maxAttempts }: Pick<Job, 'failures' | 'maxAttempts'>): boolean {
  return failures + 1 < maxAttempts;
}

/** The delay before the next attempt, which grows exponentially with the failed attempts. */
export function backoffSeconds({
  initialDelaySeconds,
  backoffMultiplier,
  failures,
}: Pick<Job, 'initialDelaySeconds' | 'backoffMultiplier' | 'failures'>): number {
  const delay = Math.min(initialDelaySeconds * backoffMultiplier ** failures, MAX_DELAY_SECONDS);
  return delay * (1 - JITTER + JITTER * Math.random());
}
