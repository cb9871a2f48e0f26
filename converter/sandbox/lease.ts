import { LARGE_MB } from '../../jobs/background-lane.ts';
import type { Logger } from '../../runtime/log.ts';
import type { TaskRequest } from '../run-task.ts';
import type { Prepare, RunOptions, RunResult, TaskRunner } from '../task-runner.ts';
import { isNativeStep, runsNativeCode } from './reuse.ts';
import { runInSandbox } from './run.ts';
import type { Sandbox } from './sandbox.ts';

/** The number of fresh sandboxes that a run may try. */
const MAX_STARTS = 3;

const NOT_STARTED: RunResult = {
  outcome: {
    kind: 'failed',
    error: { code: 'internal', message: 'sandbox could not be started' },
    retryable: true,
  },
  step: null,
  spentSeconds: 0,
  peakMemoryMb: null,
};

export interface LeaseOptions {
  /** An idle sandbox; undefined if none fits. */
  sandbox: Sandbox | undefined;
  memoryMb: number;
  owner: string | null;
  /** The log of the job. */
  log: Logger;
  start: () => Sandbox;
  /** Resolves when the memory of ended sandboxes is free. */
  makeRoom: () => Promise<unknown>;
  onUnlimited: () => void;
  /** Called with the last sandbox, if it still runs, and all others that were used. */
  onRelease: (last: Sandbox | undefined, used: Iterable<Sandbox>) => void;
}

/** The sandboxes of one reservation, one after another. None has run native code on bytes of another owner. */
export class Lease implements TaskRunner {
  readonly #options: LeaseOptions;
  #sandbox: Sandbox | undefined;
  readonly #used = new Set<Sandbox>();

  constructor(options: LeaseOptions) {
    this.#options = options;
    this.#sandbox = options.sandbox;
  }

  async run(prepare: Prepare, options: RunOptions): Promise<RunResult> {
    const { memoryMb, owner, makeRoom, onUnlimited } = this.#options;
    await makeRoom();
    const begun = await this.#begin(prepare);
    if (begun === undefined) return NOT_STARTED;
    const { sandbox, request } = begun;
    // A sandbox that hostile bytes have taken over would not report the step.
    if (runsNativeCode(request)) sandbox.taintBy(owner);
    const onStep: Parameters<typeof runInSandbox>[4]['onStep'] = (step) => {
      if (isNativeStep(step)) sandbox.taintBy(owner);
    };
    const result = await runInSandbox(sandbox, memoryMb, request, options, { onStep, onUnlimited });
    const { outcome } = result;
    const hasOutgrown = outcome.kind === 'died' && outcome.how === 'outgrown';
    if (hasOutgrown || outcome.kind === 'aborted' || memoryMb > LARGE_MB) {
      sandbox.end();
      await sandbox.gone;
    }
    return result;
  }

  distrust(): void {
    this.#sandbox?.end();
  }

  async release(): Promise<void> {
    const last = this.#sandbox;
    this.#sandbox = undefined;
    this.#options.onRelease(last, this.#used);
  }

  /** Finds a sandbox with an empty folder, and makes its request. Undefined when every sandbox ended before that. */
  async #begin(prepare: Prepare): Promise<{ sandbox: Sandbox; request: TaskRequest } | undefined> {
    for (let tries = 0; tries <= MAX_STARTS; tries++) {
      const sandbox = this.#sandbox?.isUsable ? this.#sandbox : this.#options.start();
      this.#sandbox = sandbox;
      this.#used.add(sandbox);
      sandbox.isLeased = true;
      sandbox.log = this.#options.log;
      if (!(await sandbox.folder.begin())) {
        sandbox.end();
        await sandbox.gone;
        continue;
      }
      const request = await prepare(sandbox.folder);
      if (sandbox.isUsable) return { sandbox, request };
    }
    return undefined;
  }
}
