import type { Database } from '../db/client.ts';
import { attemptName } from '../jobs/attempt.ts';
import type { AttemptKey } from '../jobs/claim.ts';
import { noteWaits, ownedAttempts } from '../jobs/running.ts';
import type { Outcome, Settlement } from '../jobs/settle.ts';
import type { Logger } from '../runtime/log.ts';

/** An attempt that this converter runs. */
interface Running {
  attempt: AttemptKey;
  execution: Promise<void>;
  lost: AbortController;
  /** The time at which it last found the store unavailable. */
  waitedAt: number;
}

interface Parts {
  db: Database;
  converterId: string;
  settle: (settlement: Settlement) => Promise<boolean>;
  log: Logger;
}

/** An attempt retries the store within two seconds, so it no longer waits when its last retry is older. */
const WAITS_MS = 5_000;

const UNSETTLED: Outcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'task result could not be stored' },
  retryable: true,
};

/**
 * The attempts that run here, compared with those that this converter owns in the database. An attempt that runs and is
 * not owned is aborted; an attempt that is owned and does not run (a stray attempt) is settled.
 */
export class RunningAttempts {
  readonly #parts: Parts;
  readonly #running = new Map<string, Running>();
  /** Names of attempts that ended and could not be settled. */
  readonly #unsettled = new Set<string>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Starts an attempt. `execute` gets the function to call when the store is unavailable. */
  begin(attempt: AttemptKey, lost: AbortController, execute: (onWait: () => void) => Promise<void>): void {
    const name = attemptName(attempt);
    const running: Running = { attempt, lost, waitedAt: Number.NEGATIVE_INFINITY, execution: Promise.resolve() };
    this.#running.set(name, running);
    running.execution = execute(() => {
      running.waitedAt = performance.now();
    })
      .catch((error) => {
        this.#parts.log.error(
          { err: error, job: attempt.id, attempt: attempt.attempt },
          'attempt could not be settled',
        );
        this.#unsettled.add(name);
      })
      .finally(() => this.#running.delete(name));
  }

  /** Resolves when all current attempts have ended. */
  async ended(): Promise<void> {
    await Promise.all([...this.#running.values()].map(({ execution }) => execution));
  }

  /** Aborts attempts that no longer own their job, such as a cancelled one, and records which wait for the store. */
  async abortLost(): Promise<void> {
    const before = [...this.#running];
    if (before.length === 0) return;
    const { db, converterId } = this.#parts;
    const owned = new Set((await ownedAttempts(db, converterId)).map(attemptName));
    for (const [name, { lost }] of before) if (!owned.has(name)) lost.abort();
    const since = performance.now() - WAITS_MS;
    const waiting = before.filter(([, { waitedAt }]) => waitedAt > since);
    await noteWaits(
      db,
      waiting.map(([, { attempt }]) => attempt),
    );
  }

  /**
   * Settles stray attempts: jobs of a claim whose answer was lost return to the queue, and attempts that could not be
   * settled fail. No claim may run meanwhile.
   */
  async settleStray(): Promise<void> {
    const { db, converterId, settle, log } = this.#parts;
    // Read before the query, during which an attempt may end and be settled.
    const running = new Set(this.#running.keys());
    const owned = await ownedAttempts(db, converterId);
    const stray = owned.filter((attempt) => !running.has(attemptName(attempt)));
    for (const name of this.#unsettled)
      if (!stray.some((one) => attemptName(one) === name)) this.#unsettled.delete(name);
    await Promise.all(
      stray.map(async (attempt) => {
        const outcome: Outcome = this.#unsettled.has(attemptName(attempt)) ? UNSETTLED : { kind: 'returned' };
        const settled = await settle({ attempt, outcome, peakMemoryMb: null });
        if (settled)
          log.warn({ job: attempt.id, attempt: attempt.attempt, outcome: outcome.kind }, 'stray attempt settled');
      }),
    );
  }
}
