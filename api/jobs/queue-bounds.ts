import type { Database } from '../../db/client.ts';
import { countReady, readUsage, shapeKey, type Usage } from '../../db/usage.ts';
import { type NewJob, payloadBytes } from '../../jobs/submit.ts';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';
import { invalid } from '../http/problem.ts';
import { tooMany } from '../http/rate-limit.ts';
import { Tally } from './usage-tally.ts';

/** Limits waiting jobs, for each owner and for the whole queue. */
export interface QueueBounds {
  /**
   * Reserves room for jobs before they are submitted. Throws 429 beyond a limit of the owner, 503 beyond that of the whole
   * queue, and 400 for a batch that exceeds a limit alone. The caller calls the returned function once the jobs are
   * committed or refused.
   */
  reserve(owner: string | null, wanted: Usage): Promise<() => void>;
  /** Throws the same errors while the owner may not submit one more job. Reserves nothing. */
  check(owner: string | null): Promise<void>;
}

export const NO_SHAPES: ReadonlySet<string> = new Set();
/** The usage of an upload whose body has not been read. */
export const ONE_JOB: Usage = { jobs: 1, payloadBytes: 0, shapes: NO_SHAPES };

const RETRY_AFTER_SECONDS = 5;
/** Tallies that are kept before idle ones are dropped. */
const MAX_IDLE_TALLIES = 1_000;

type Bounds = Pick<
  Config,
  'MAX_QUEUED_JOBS' | 'MAX_QUEUED_JOBS_PER_OWNER' | 'MAX_QUEUED_PAYLOAD_MB_PER_OWNER' | 'MAX_SHAPES_PER_OWNER'
>;

export function createQueueBounds(db: Database, bounds: Bounds): QueueBounds {
  return new TalliedBounds(db, bounds);
}

class TalliedBounds implements QueueBounds {
  readonly #db: Database;
  readonly #bounds: Bounds;
  /** Waiting jobs by owner; jobs without an owner have the empty name. */
  readonly #tallies = new Map<string, Tally>();
  /** Ready jobs of all owners. */
  readonly #all: Tally;

  constructor(db: Database, bounds: Bounds) {
    const { MAX_QUEUED_JOBS: maxReady, MAX_QUEUED_JOBS_PER_OWNER: maxPerOwner } = bounds;
    this.#db = db;
    this.#bounds = bounds;
    this.#all = new Tally(async () => {
      return { jobs: await countReady(db, maxReady, maxPerOwner), payloadBytes: 0, shapes: NO_SHAPES };
    });
  }

  async check(owner: string | null): Promise<void> {
    refuseForOwner(owner, await this.#tallyOf(owner).read(), ONE_JOB, this.#bounds);
    refuseForAll(await this.#all.read(), ONE_JOB, this.#bounds);
  }

  async reserve(owner: string | null, wanted: Usage): Promise<() => void> {
    refuseImpossible(owner, wanted, this.#bounds);
    const refuse = (waiting: Usage) => refuseForOwner(owner, waiting, wanted, this.#bounds);
    const release = await this.#tallyOf(owner).reserve(wanted, refuse);
    try {
      const releaseAll = await this.#all.reserve(wanted, (ready) => refuseForAll(ready, wanted, this.#bounds));
      return () => {
        release();
        releaseAll();
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  #tallyOf(owner: string | null): Tally {
    const name = owner ?? '';
    const known = this.#tallies.get(name);
    if (known !== undefined) return known;
    if (this.#tallies.size >= MAX_IDLE_TALLIES) {
      for (const [other, tally] of this.#tallies) if (tally.isIdle()) this.#tallies.delete(other);
    }
    const { MAX_QUEUED_JOBS_PER_OWNER, MAX_SHAPES_PER_OWNER } = this.#bounds;
    // Without an owner, only the limit of the whole queue applies to jobs.
    const maxJobs = name === '' ? 0 : MAX_QUEUED_JOBS_PER_OWNER;
    const tally = new Tally(() => readUsage(this.#db, name, maxJobs, MAX_SHAPES_PER_OWNER));
    this.#tallies.set(name, tally);
    return tally;
  }
}

/** Gives the usage that jobs add to that of their owner. */
export function usageOf(jobs: NewJob[]): Usage {
  return {
    jobs: jobs.length,
    payloadBytes: jobs.reduce((sum, { payload }) => sum + payloadBytes(payload), 0),
    shapes: new Set(jobs.map(({ shape }) => shapeKey(shape))),
  };
}

function refuseImpossible(owner: string | null, { jobs, shapes }: Usage, bounds: Bounds): void {
  const maxJobs = owner === null ? bounds.MAX_QUEUED_JOBS : bounds.MAX_QUEUED_JOBS_PER_OWNER;
  if (jobs > maxJobs) throw invalid(`a batch may have at most ${maxJobs} jobs (got ${jobs})`);
  const maxShapes = bounds.MAX_SHAPES_PER_OWNER;
  if (shapes.size > maxShapes) {
    throw invalid(`resource_requirements: a batch may have at most ${maxShapes} different values (got ${shapes.size})`);
  }
}

function refuseForOwner(owner: string | null, waiting: Usage, wanted: Usage, bounds: Bounds): void {
  if (owner !== null) refuseCrowd(waiting, wanted, bounds);
  refuseShapes(waiting, wanted, bounds);
}

function refuseForAll(ready: Usage, wanted: Usage, { MAX_QUEUED_JOBS: max }: Bounds): void {
  if (wanted.jobs === 0 || ready.jobs + wanted.jobs <= max) return;
  const message = `the queue is full: at most ${max} jobs may be ready, and ${ready.jobs} are; try again later`;
  throw new AppError('unavailable', message, { status: 503 });
}

function refuseCrowd(waiting: Usage, wanted: Usage, bounds: Bounds): void {
  const maxJobs = bounds.MAX_QUEUED_JOBS_PER_OWNER;
  if (wanted.jobs > 0 && waiting.jobs + wanted.jobs > maxJobs) {
    throw tooMany(`at most ${maxJobs} of your jobs may wait, and ${waiting.jobs} do`, RETRY_AFTER_SECONDS);
  }
  const megabytes = bounds.MAX_QUEUED_PAYLOAD_MB_PER_OWNER;
  if (wanted.payloadBytes > 0 && waiting.payloadBytes + wanted.payloadBytes > megabytes * 2 ** 20) {
    throw tooMany(
      `the payloads of your waiting jobs may have at most ${megabytes} MB (now ${waiting.payloadBytes} bytes)`,
      RETRY_AFTER_SECONDS,
    );
  }
}

function refuseShapes(waiting: Usage, wanted: Usage, { MAX_SHAPES_PER_OWNER: max }: Bounds): void {
  const added = [...wanted.shapes].filter((shape) => !waiting.shapes.has(shape)).length;
  if (added === 0 || waiting.shapes.size + added <= max) return;
  throw tooMany(
    `resource_requirements: your waiting jobs may have at most ${max} different values (now ${waiting.shapes.size}; memory is rounded up to a class)`,
    RETRY_AFTER_SECONDS,
  );
}
