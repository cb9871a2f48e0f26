import type { Database } from '../db/client.ts';
import { attemptName, ownedAttempts, recordWaits } from '../jobs/attempt.ts';
import type { AttemptKey } from '../jobs/claim.ts';
import type { Outcome, Settlement } from '../jobs/settle.ts';
import type { Logger } from '../runtime/log.ts';

/** An attempt that this converter executes. */
interface Running {
  attempt: AttemptKey;
  execution: Promise<void>;
  lost: AbortController;
  /** When it last found the store away. */
  waitedAt: number;
}

interface Parts {
  db: Database;
  converterId: string;
  settle: (settlement: Settlement) => Promise<boolean>;
  log: Logger;
}

/** An attempt asks the store again within two seconds, so one that has not for longer no longer waits. */
const WAITS_MS = 5_000;

const UNSETTLED: Outcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'its end could not be stored' },
  retryable: true,
};

/**
 * The attempts that this converter executes, compared with those that it owns in the database: one that is executed and
 * not owned is aborted, one that is owned and not executed is settled.
 */
export class RunningAttempts {
  readonly #parts: Parts;
  readonly #running = new Map<string, Running>();
  /** Names of attempts whose execution ended without a settlement. */
  readonly #unsettled = new Set<string>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Begins an attempt; `execute` gets the function to call when it finds the store away. */
  begin(attempt: AttemptKey, lost: AbortController, execute: (onWait: () => void) => Promise<void>): void {
    const name = attemptName(attempt);
    const running: Running = { attempt, lost, waitedAt: Number.NEGATIVE_INFINITY, execution: Promise.resolve() };
    this.#running.set(name, running);
    running.execution = execute(() => {
      running.waitedAt = performance.now();
    })
      .catch((error) => {
        this.#parts.log.error({ err: error, job: attempt.id, attempt: attempt.attempt }, 'attempt not settled');
        this.#unsettled.add(name);
      })
      .finally(() => this.#running.delete(name));
  }

  /** Resolves when every attempt that runs now has ended. */
  async ended(): Promise<void> {
    await Promise.all([...this.#running.values()].map(({ execution }) => execution));
  }

  /** Aborts what runs here and is no longer ours, such as a cancelled job; notes which attempts wait for the store. */
  async abortLost(): Promise<void> {
    const before = [...this.#running];
    if (before.length === 0) return;
    const { db, converterId } = this.#parts;
    const owned = new Set((await ownedAttempts(db, converterId)).map(attemptName));
    for (const [name, { lost }] of before) if (!owned.has(name)) lost.abort();
    const since = performance.now() - WAITS_MS;
    const waiting = before.filter(([, { waitedAt }]) => waitedAt > since);
    await recordWaits(
      db,
      waiting.map(([, { attempt }]) => attempt),
    );
  }

  /**
   * Settles what this converter owns and does not execute: claims whose answer was lost are handed back, and what could
   * not be settled has failed. The caller sees to it that no claim is at work meanwhile.
   */
  async settleStray(): Promise<void> {
    const { db, converterId, settle, log } = this.#parts;
    // Read first: an attempt may end and be settled while the database is asked.
    const executed = new Set(this.#running.keys());
    const owned = await ownedAttempts(db, converterId);
    const stray = owned.filter((attempt) => !executed.has(attemptName(attempt)));
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
