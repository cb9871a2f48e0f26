import { type DependencyOutcome, ENDED, type JobStatus, type RunOn } from '../db/schema.ts';
import { AppError, type PublicError } from '../runtime/errors.ts';

/** A cycle in `depends_on`, as a list of ids that ends with the first. Edges to ids that are not keys are ignored. */
export function findCycle(dependsOn: Map<string, string[]>): string[] | undefined {
  const done = new Set<string>();
  for (const start of dependsOn.keys()) {
    // `left` holds the prerequisites that were not visited yet.
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

/** The state of the prerequisites of a job. */
export interface Edges {
  /** Prerequisites that have not ended. */
  open: number;
  /** The first prerequisite that ended otherwise than `completed`. */
  failed: { id: string; outcome: Exclude<DependencyOutcome, 'completed'> } | null;
}

/** The state that the prerequisites of a job require, before it starts. */
export type Place =
  | { status: 'free' }
  | { status: 'blocked'; pending: number }
  | { status: 'failed' | 'cancelled'; error: PublicError };

const WORDS = { failed: 'has failed', cancelled: 'was cancelled', deleted: 'was deleted' };

/**
 * Decides the state of a job by its prerequisites. A job that runs on `success` fails with the first prerequisite that does
 * not complete. Any other job waits until all have ended. A job that runs on `failure` is cancelled when all completed.
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

interface NewNode {
  id: string;
  dependsOn?: string[] | undefined;
  runOn?: RunOn | undefined;
}

/**
 * Places the jobs of a new batch, without cycles, whose prerequisites are in the batch or among `stored`. A job without
 * prerequisites is free, on any `run_on`.
 */
export function placeNewJobs(batch: NewNode[], stored: ReadonlyMap<string, JobStatus>): Map<string, Place> {
  const byId = new Map(batch.map((job) => [job.id, job]));
  const places = new Map<string, Place>();

  function statusOf(id: string): JobStatus | 'free' | undefined {
    const job = byId.get(id);
    return job === undefined ? stored.get(id) : place(job).status;
  }

  function place({ id, dependsOn = [], runOn = 'success' }: NewNode): Place {
    const known = places.get(id);
    if (known !== undefined) return known;
    const edges: Edges = { open: 0, failed: null };
    for (const on of new Set(dependsOn)) {
      const status = statusOf(on);
      const outcome = ENDED.find((end) => end === status);
      if (outcome === undefined) edges.open++;
      else if (outcome !== 'completed') edges.failed ??= { id: on, outcome };
    }
    const placed: Place = dependsOn.length > 0 ? placeOf(runOn, edges) : { status: 'free' };
    places.set(id, placed);
    return placed;
  }

  for (const job of batch) place(job);
  return places;
}
