import { LARGE_MB } from '../../jobs/background-lane.ts';
import { BASELINE_MB } from '../../jobs/shape.ts';
import type { Logger } from '../../runtime/log.ts';
import { IdleSandboxes } from './idle-sandboxes.ts';
import type { Isolation } from './isolation/isolation.ts';
import { Lease } from './lease.ts';
import type { OrphanReaper } from './orphan-reaper.ts';
import { Sandbox } from './sandbox.ts';

export interface PoolOptions {
  /** The number of idle sandboxes that are started in advance, and kept for each owner. */
  keep: number;
  /** The memory that is not reserved: idle sandboxes must fit into it. */
  roomMb: () => number;
  /** The folder for the private folders of sandboxes. */
  workFolder: string;
  cacheFolder: string;
  tasksModule: string | undefined;
  /** Folders that sandboxes must not see. */
  hidden: string[];
  isolation: Isolation;
  /** Kills processes that sandboxes without a PID namespace leave behind. */
  orphans?: OrphanReaper | null;
  /** After native code has read bytes of an owner, a sandbox takes further tasks of that owner (`owner`), or none. */
  reuse?: 'owner' | 'never';
  log: Logger;
}

/** The sandboxes of a converter: leases them to jobs, and keeps idle ones for the next. The owner calls `close()`. */
export class SandboxPool {
  readonly #options: PoolOptions;
  /** All sandboxes that are not gone. */
  readonly #all = new Set<Sandbox>();
  readonly #idle: IdleSandboxes;
  readonly #folderRemovals = new Set<Promise<void>>();
  /** The number of leases for ordinary conversions, whose sandboxes return; larger ones are not used again. */
  #ordinaryLeases = 0;
  #hasWarnedUnlimited = false;
  #isClosed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#idle = new IdleSandboxes(options.keep);
    this.refill();
  }

  /**
   * Leases a sandbox for a reservation of `memoryMb` that was just made. It has never run native code on bytes of another
   * owner than `owner`. `jobLog` gets its log lines.
   */
  lease(memoryMb: number, owner: string | null, jobLog = this.#options.log): Lease {
    const isOrdinary = memoryMb <= LARGE_MB;
    if (isOrdinary) this.#ordinaryLeases++;
    return new Lease({
      ...{ memoryMb, owner, log: jobLog, sandbox: this.#idle.take(memoryMb, owner) },
      start: () => this.#start(),
      makeRoom: () => this.makeRoom(),
      onUnlimited: () => this.#warnUnlimited(),
      onRelease: (last, used) => {
        if (isOrdinary) this.#ordinaryLeases--;
        this.#takeBack(last, used);
      },
    });
  }

  /** Ends idle sandboxes whose memory was reserved, the longest idle first. Resolves when all ended ones are gone. */
  makeRoom(): Promise<unknown> {
    while (this.#idle.size > 0 && this.#idle.memoryMb > this.#options.roomMb()) this.#idle.endLongestIdle();
    const ending = [...this.#all].filter(({ isEnding }) => isEnding);
    return Promise.all(ending.map(({ gone }) => gone));
  }

  /** Starts idle sandboxes until there are enough, or no room is left. */
  refill(): void {
    const { keep, roomMb } = this.#options;
    while (
      !this.#isClosed &&
      this.#idle.size + this.#ordinaryLeases < keep &&
      this.#idle.memoryMb + BASELINE_MB <= roomMb()
    ) {
      this.#idle.addFresh(this.#start());
    }
  }

  /** Resolves when each sandbox has compiled the code of an ordinary page, runs a task, or is gone. */
  async warm(): Promise<void> {
    await Promise.all([...this.#all].map(({ channel, gone }) => Promise.race([channel.warm, gone])));
  }

  /** Kills every sandbox, and resolves when all are gone. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const sandbox of this.#all) sandbox.process.kill();
    await Promise.all([...this.#all].map(({ gone }) => gone));
    await Promise.all(this.#folderRemovals);
  }

  #start(): Sandbox {
    const { workFolder, cacheFolder, tasksModule, hidden, isolation, orphans, log } = this.#options;
    const sandbox = new Sandbox({
      ...{ workFolder, cacheFolder, tasksModule, hidden, isolation, log },
      onExit: () => orphans?.reap(() => this.#runningPids()),
    });
    this.#all.add(sandbox);
    void sandbox.gone.then(() => {
      this.#all.delete(sandbox);
      if (!sandbox.isLeased) this.#removeFolder(sandbox);
    });
    return sandbox;
  }

  #takeBack(last: Sandbox | undefined, used: Iterable<Sandbox>): void {
    for (const sandbox of used) {
      sandbox.isLeased = false;
      if (sandbox.isGone) this.#removeFolder(sandbox);
    }
    if (last === undefined || last.isGone) return;
    last.measureIdleMemory();
    const isReused = this.#options.reuse !== 'never' && !this.#isClosed;
    if (!isReused || !this.#idle.keep(last)) last.end();
  }

  #removeFolder({ folder }: Sandbox): void {
    const removal = folder
      .remove()
      .catch((error) => this.#options.log.warn({ err: error }, 'sandbox folder not removed'))
      .finally(() => this.#folderRemovals.delete(removal));
    this.#folderRemovals.add(removal);
  }

  #runningPids(): number[] {
    return [...this.#all].flatMap(({ runningPid = [] }) => runningPid);
  }

  #warnUnlimited(): void {
    if (this.#hasWarnedUnlimited) return;
    this.#hasWarnedUnlimited = true;
    this.#options.log.warn('prlimit is not available: the memory of sandboxes is watched, but not limited');
  }
}
