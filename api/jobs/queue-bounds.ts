import type { Database } from '../../db/client.ts';
import { countReady, readUsage, shapeKey, type Usage } from '../../db/usage.ts';
import { type NewJob, payloadBytes } from '../../jobs/submit.ts';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';
import { invalid } from '../http/problem.ts';
import { tooMany } from '../http/rate-limit.ts';
import { Tally } from './usage-tally.ts';

/** Bounds of what waits, for each owner and for all together. */
export interface QueueBounds {
  /**
   * Reserves room for jobs that are about to be submitted. Throws 429 beyond a bound of their owner, 503 beyond that of
   * the whole queue, and 400 for a batch that could never be accepted. The caller calls what this gives once the jobs are
   * committed or refused.
   */
  reserve(owner: string | null, wanted: Usage): Promise<() => void>;
  /** Throws the same while not even one more job of the owner may wait. Reserves nothing. */
  check(owner: string | null): Promise<void>;
}

export const NO_SHAPES: ReadonlySet<string> = new Set();
/** An upload, before its body is read. */
export const ONE_JOB: Usage = { jobs: 1, payloadBytes: 0, shapes: NO_SHAPES };

const RETRY_AFTER_SECONDS = 5;
/** Owners whose tallies are kept although they send nothing. */
const MAX_IDLE_TALLIES = 1_000;

type Bounds = Pick<
  Config,
  'MAX_QUEUED_JOBS' | 'MAX_QUEUED_JOBS_PER_OWNER' | 'MAX_QUEUED_PAYLOAD_MB_PER_OWNER' | 'MAX_SHAPES_PER_OWNER'
>;

export function createQueueBounds(db: Database, bounds: Bounds): QueueBounds {
  const { MAX_QUEUED_JOBS: maxReady, MAX_QUEUED_JOBS_PER_OWNER: maxPerOwner } = bounds;
  const tallies = new Map<string, Tally>();
  const all = new Tally(async () => {
    return { jobs: await countReady(db, maxReady, maxPerOwner), payloadBytes: 0, shapes: NO_SHAPES };
  });

  function tallyOf(owner: string): Tally {
    const known = tallies.get(owner);
    if (known !== undefined) return known;
    if (tallies.size >= MAX_IDLE_TALLIES) {
      for (const [name, tally] of tallies) if (tally.isIdle()) tallies.delete(name);
    }
    // Jobs without an owner have the bound of the whole queue alone.
    const maxJobs = owner === '' ? 0 : maxPerOwner;
    const tally = new Tally(() => readUsage(db, owner, maxJobs, bounds.MAX_SHAPES_PER_OWNER));
    tallies.set(owner, tally);
    return tally;
  }

  const refuseOfOwner = (owner: string | null, waiting: Usage, wanted: Usage) => {
    if (owner !== null) refuseCrowd(waiting, wanted, bounds);
    refuseShapes(waiting, wanted, bounds);
  };
  const refuseOfAll = (ready: Usage, wanted: Usage) => {
    if (wanted.jobs === 0 || ready.jobs + wanted.jobs <= maxReady) return;
    const message = `at most ${maxReady} jobs may be ready, and ${ready.jobs} are: send it again later`;
    throw new AppError('unavailable', message, { status: 503 });
  };

  return {
    async check(owner) {
      refuseOfOwner(owner, await tallyOf(owner ?? '').read(), ONE_JOB);
      refuseOfAll(await all.read(), ONE_JOB);
    },
    async reserve(owner, wanted) {
      refuseImpossible(owner, wanted, bounds);
      const release = await tallyOf(owner ?? '').reserve(wanted, (waiting) => refuseOfOwner(owner, waiting, wanted));
      try {
        const releaseAll = await all.reserve(wanted, (ready) => refuseOfAll(ready, wanted));
        return () => {
          release();
          releaseAll();
        };
      } catch (error) {
        release();
        throw error;
      }
    },
  };
}

/** The usage that jobs add to that of their owner. */
export function usageOf(jobs: NewJob[]): Usage {
  return {
    jobs: jobs.length,
    payloadBytes: jobs.reduce((sum, { payload }) => sum + payloadBytes(payload), 0),
    shapes: new Set(jobs.map(({ shape }) => shapeKey(shape))),
  };
}

function refuseImpossible(owner: string | null, { jobs, shapes }: Usage, bounds: Bounds): void {
  const most = owner === null ? bounds.MAX_QUEUED_JOBS : bounds.MAX_QUEUED_JOBS_PER_OWNER;
  if (jobs > most) throw invalid(`${jobs} jobs in one batch, more than the ${most} that may wait`);
  if (shapes.size > bounds.MAX_SHAPES_PER_OWNER) {
    throw invalid(
      `resource_requirements: ${shapes.size} different ones in one batch, more than ${bounds.MAX_SHAPES_PER_OWNER}`,
    );
  }
}

function refuseCrowd(waiting: Usage, wanted: Usage, bounds: Bounds): void {
  const most = bounds.MAX_QUEUED_JOBS_PER_OWNER;
  if (wanted.jobs > 0 && waiting.jobs + wanted.jobs > most) {
    throw tooMany(`at most ${most} of your jobs may wait, and ${waiting.jobs} do`, RETRY_AFTER_SECONDS);
  }
  const megabytes = bounds.MAX_QUEUED_PAYLOAD_MB_PER_OWNER;
  if (wanted.payloadBytes > 0 && waiting.payloadBytes + wanted.payloadBytes > megabytes * 2 ** 20) {
    throw tooMany(
      `the payloads of your waiting jobs may have at most ${megabytes} MB, and have ${waiting.payloadBytes} bytes`,
      RETRY_AFTER_SECONDS,
    );
  }
}

function refuseShapes(waiting: Usage, wanted: Usage, { MAX_SHAPES_PER_OWNER: most }: Bounds): void {
  const added = [...wanted.shapes].filter((shape) => !waiting.shapes.has(shape)).length;
  if (added === 0 || waiting.shapes.size + added <= most) return;
  throw tooMany(
    `resource_requirements: at most ${most} different ones may wait (memory by class), and ${waiting.shapes.size} do`,
    RETRY_AFTER_SECONDS,
  );
}
