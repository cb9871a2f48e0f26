import type { DependencyOutcome, RunOn } from '../db/schema.ts';
import { AppError, type PublicError } from '../runtime/errors.ts';

/**
 * A cycle in `depends_on`, as the ids along it with the first one repeated at the end, or undefined.
 * Edges to ids that are no keys are left out.
 */
export function findCycle(dependsOn: Map<string, string[]>): string[] | undefined {
  const done = new Set<string>();
  for (const start of dependsOn.keys()) {
    // The path so far; the prerequisites of its last id are still to be visited.
    const path: { id: string; left: string[] }[] = [];
    const enter = (id: string) => path.push({ id, left: [...(dependsOn.get(id) ?? [])].reverse() });
    if (!done.has(start)) enter(start);
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const next = top.left.pop();
      if (next === undefined) {
        done.add(top.id);
        path.pop();
        continue;
      }
      const back = path.findIndex(({ id }) => id === next);
      if (back >= 0) return [...path.slice(back).map(({ id }) => id), next];
      if (!done.has(next)) enter(next);
    }
  }
}

/** Throws `dependency_cycle` (422) for jobs that wait for each other. */
export function refuseCycle(dependsOn: Map<string, string[]>): void {
  const cycle = findCycle(dependsOn);
  if (cycle === undefined) return;
  const message = `these jobs wait for each other: ${cycle.join(' -> ')}`;
  throw new AppError('dependency_cycle', message, { status: 422, details: { cycle } });
}

/** The edges of one job, counted. */
export interface Edges {
  /** Prerequisites that have not ended. */
  open: number;
  /** The first prerequisite that ended otherwise than `completed`. */
  failed: { id: string; outcome: Exclude<DependencyOutcome, 'completed'> } | null;
}

/** Where its prerequisites put a job that has not started. */
export type Place =
  | { status: 'free' }
  | { status: 'blocked'; pending: number }
  | { status: 'failed' | 'cancelled'; error: PublicError };

const WORDS = { failed: 'has failed', cancelled: 'was cancelled', deleted: 'was deleted' };

/**
 * The one rule of dependencies. A job that runs on `success` fails with its first prerequisite that does not complete;
 * the others wait until all have ended. A job that runs on `failure` is cancelled when all have completed.
 */
export function placeOf(runOn: RunOn, { open, failed }: Edges): Place {
  if (runOn === 'success' && failed !== null) {
    const message = `its prerequisite ${failed.id} ${WORDS[failed.outcome]}`;
    return { status: 'failed', error: { code: 'dependency_failed', message } };
  }
  if (open > 0) return { status: 'blocked', pending: open };
  if (runOn === 'failure' && failed === null) {
    const message = 'all its prerequisites completed, and it runs on failure';
    return { status: 'cancelled', error: { code: 'dependency_completed', message } };
  }
  return { status: 'free' };
}
