import { once } from 'node:events';
import { BASELINE_MB, LARGE_MB, ORDINARY_MB } from '../../jobs/shape.ts';
import type { Logger } from '../../log.ts';
import { PrivateFolder } from '../files/private-folder.ts';
import { sandboxStarts } from '../metrics.ts';
import type { TaskRequest } from '../run-task.ts';
import { descendantsOf, killAll, readMemory } from './limits.ts';
import { startSandboxProcess } from './process.ts';
import { type Ran, type RunOptions, runIn, type Sandbox } from './run.ts';

/** A healthy sandbox is used again; after this many tasks a fresh one is better. */
const MOST_TASKS = 200;
/** So is one that has grown: it holds no more than this part of the reservation that it is used for. */
const MOST_HELD = 0.62;
/** What has grown beyond use for the conversion of an ordinary PDF is not kept. */
const MOST_IDLE_MB = MOST_HELD * ORDINARY_MB;

/** Fresh processes that a run may try. */
const MAX_STARTS = 3;
const NOT_STARTED: Ran = {
  outcome: {
    kind: 'failed',
    error: { code: 'internal', message: 'its sandbox could not be started' },
    retryable: true,
  },
  step: null,
  spentSeconds: 0,
  peakMemoryMb: null,
};

const LONGEST_OUTPUT = 500;

/** Makes the request of a run, with the files that it names in the folder of the process. */
export type Prepare = (folder: PrivateFolder) => Promise<TaskRequest>;

export type SandboxPool = ReturnType<typeof createSandboxPool>;
/** A sandbox for one reservation. */
export type Lease = ReturnType<SandboxPool['lease']>;

/**
 * Keeps `keep` sandboxes for ordinary conversions, started ahead of the first task, the idle ones as long as `roomMb` of
 * memory that nobody has reserved holds them. Each has a folder of its own in `workFolder`. The owner calls `close()`.
 */
export function createSandboxPool({
  keep,
  roomMb,
  workFolder,
  cacheFolder,
  tasksModule,
  log,
}: {
  keep: number;
  roomMb: () => number;
  workFolder: string;
  cacheFolder: string;
  tasksModule: string | undefined;
  log: Logger;
}) {
  const all = new Set<Sandbox>();
  const idle: Sandbox[] = [];
  /** How many are out for ordinary conversions; larger ones bring a sandbox of their own to its end. */
  let leased = 0;
  /** Killed and not gone yet. */
  const leaving = new Set<Sandbox>();
  const removals = new Set<Promise<void>>();
  let closed = false;
  let capsWork = true;

  function start(): Sandbox {
    const folder = new PrivateFolder(workFolder);
    const child = startSandboxProcess({ folder: folder.path, cacheFolder, tasksModule });
    sandboxStarts.inc();
    // V8 writes pages about an allocation that was refused: our log takes the first lines, and keeps its form.
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        sandbox.log.info({ sandbox: child.pid, text: text.slice(0, LONGEST_OUTPUT) }, 'sandbox prints');
      });
    }
    const gone = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      // Without a process there will be no exit: the machine had no room for one.
      child.on('error', (error) => {
        log.error({ err: error }, 'sandbox error');
        if (child.pid === undefined) resolve();
      });
    });
    const ready = Promise.race([
      once(child, 'message'),
      gone.then(() => Promise.reject(new Error('it did not start'))),
    ]);
    ready.catch(() => undefined);
    const sandbox: Sandbox = {
      ...{ child, ready, gone, folder, log },
      ...{ isLeased: false, tasks: 0, capMb: null, idleMb: BASELINE_MB },
    };
    all.add(sandbox);
    void gone.then(() => {
      all.delete(sandbox);
      leaving.delete(sandbox);
      const at = idle.indexOf(sandbox);
      if (at >= 0) idle.splice(at, 1);
      if (!sandbox.isLeased) removeFolder(sandbox);
    });
    return sandbox;
  }

  function removeFolder({ folder }: Sandbox): void {
    const removal = folder
      .remove()
      .catch((error) => log.warn({ err: error }, 'folder of a sandbox not removed'))
      .finally(() => removals.delete(removal));
    removals.add(removal);
  }

  const isUsable = (sandbox: Sandbox | undefined): sandbox is Sandbox =>
    sandbox !== undefined && all.has(sandbox) && !leaving.has(sandbox);

  const idleMb = () => idle.reduce((sum, sandbox) => sum + sandbox.idleMb, 0);
  const hasRoom = () => !closed && idle.length + leased < keep && idleMb() + BASELINE_MB <= roomMb();

  function end(sandbox: Sandbox): void {
    if (all.has(sandbox)) leaving.add(sandbox);
    kill(sandbox);
  }

  /** Idle sandboxes go first when somebody reserves what they take. Resolves when all that were killed are gone. */
  function makeRoom(): Promise<unknown> {
    while (idle.length > 0 && idleMb() > roomMb()) end(idle.shift() as Sandbox);
    return Promise.all([...leaving].map(({ gone }) => gone));
  }

  function release(sandbox: Sandbox): void {
    const { pid } = sandbox.child;
    const memory = pid === undefined ? null : readMemory(pid);
    sandbox.idleMb = memory?.residentMb ?? BASELINE_MB;
    const healthy =
      sandbox.child.connected && !leaving.has(sandbox) && sandbox.tasks < MOST_TASKS && sandbox.idleMb <= MOST_IDLE_MB;
    // What a task has started and left behind goes with its sandbox.
    if (healthy && !closed && idle.length < keep && descendantsOf(pid ?? 0).length === 0) idle.push(sandbox);
    else end(sandbox);
  }

  function onUncapped(): void {
    if (capsWork) log.warn('no prlimit here: sandboxes are only watched, not capped');
    capsWork = false;
  }

  function refill(): void {
    while (hasRoom()) idle.push(start());
  }
  refill();

  return {
    /**
     * Takes a sandbox for a reservation of `memoryMb` that was just made; idle ones that it leaves no room for end.
     * `release` gives it back. What the sandbox does meanwhile is logged to `jobLog`.
     */
    lease(memoryMb: number, jobLog = log) {
      const fit = idle.findLastIndex((candidate) => candidate.idleMb <= MOST_HELD * memoryMb);
      let sandbox: Sandbox | undefined = fit < 0 ? undefined : idle.splice(fit, 1)[0];
      const ordinary = memoryMb <= LARGE_MB;
      if (ordinary) leased++;
      const taken = new Set<Sandbox>();

      /** A sandbox with an empty folder, and the request for it; undefined when each one ended before it had its work. */
      async function begin(prepare: Prepare): Promise<[Sandbox, TaskRequest] | undefined> {
        for (let tries = 0; tries <= MAX_STARTS; tries++) {
          if (!isUsable(sandbox)) sandbox = start();
          const current = sandbox;
          taken.add(current);
          current.isLeased = true;
          current.log = jobLog;
          if (!(await current.folder.begin())) {
            end(current);
            await current.gone;
            continue;
          }
          const request = await prepare(current.folder);
          if (isUsable(current)) return [current, request];
        }
        return undefined;
      }

      return {
        /**
         * Runs one task, in a fresh process if the last one died: a sandbox that dies fails its own task only. The files
         * that it has made stay until `release`. Rejects only with what `prepare` rejects with.
         */
        async run(prepare: Prepare, options: RunOptions): Promise<Ran> {
          await makeRoom();
          const begun = await begin(prepare);
          if (begun === undefined) return NOT_STARTED;
          const [current, request] = begun;
          const ran = await runIn(current, memoryMb, request, options, { end: () => end(current), onUncapped });
          const { outcome } = ran;
          const outgrown = outcome.kind === 'died' && outcome.how === 'outgrown';
          if (outgrown || outcome.kind === 'aborted' || !ordinary) {
            end(current);
            await current.gone;
          }
          return ran;
        },
        /** Ends the sandbox after a result that was rejected. */
        distrust(): void {
          if (isUsable(sandbox)) end(sandbox);
        },
        release(): void {
          if (ordinary) leased--;
          for (const used of taken) {
            used.isLeased = false;
            if (!all.has(used)) removeFolder(used);
          }
          if (sandbox !== undefined && all.has(sandbox)) release(sandbox);
          sandbox = undefined;
        },
      };
    },
    makeRoom,
    refill,
    /** Resolves when the sandboxes that are there have compiled what an ordinary page runs, have work, or are gone. */
    async warm(): Promise<void> {
      const messages = async ({ child, ready }: Sandbox) => {
        await ready;
        if (child.exitCode === null) await once(child, 'message');
      };
      const isWarm = (sandbox: Sandbox) => Promise.race([messages(sandbox), sandbox.gone]).catch(() => undefined);
      await Promise.all([...all].map(isWarm));
    },
    /** Kills every sandbox and waits until all are gone. */
    async close(): Promise<void> {
      closed = true;
      for (const sandbox of all) kill(sandbox);
      await Promise.all([...all].map(({ gone }) => gone));
      await Promise.all(removals);
    },
  };
}

/** Kills a sandbox with all that it has started. */
function kill({ child }: Sandbox): void {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) killAll(child.pid);
}
