import { BASELINE_MB, LARGE_MB, ORDINARY_MB } from '../../jobs/shape.ts';
import type { Logger } from '../../runtime/log.ts';
import { PrivateFolder } from '../files/private-folder.ts';
import { sandboxStarts, sandboxViolations } from '../metrics.ts';
import type { TaskRequest } from '../run-task.ts';
import { Channel } from './channel.ts';
import type { Isolation } from './isolation/detect.ts';
import { dieFirst, readMemory } from './memory-limit.ts';
import type { OrphanReaper } from './orphan-reaper.ts';
import { type SandboxProcess, startSandboxProcess } from './process.ts';
import { readOutput } from './read-output.ts';
import { isNative, isNativeStep } from './reuse.ts';
import { type Ran, type RunOptions, runIn, type Sandbox } from './run.ts';

/** A healthy sandbox is used again; after this many tasks a fresh one is better. */
const MAX_TASKS = 200;
/** So is one that has grown: it holds no more than this part of the reservation that it is used for. */
const MAX_HELD = 0.62;
/** Sandboxes of so many owners are kept: starting another one takes longer than most images. */
const MAX_IDLE_OWNERS = 4;
/** What has grown beyond use for the conversion of an ordinary PDF is not kept. */
const MAX_IDLE_MB = MAX_HELD * ORDINARY_MB;

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

/** Makes the request of a run, with the files that it names in the folder of the process. */
export type Prepare = (folder: PrivateFolder) => Promise<TaskRequest>;

export type SandboxPool = ReturnType<typeof createSandboxPool>;
/** A sandbox for one reservation. */
export type Lease = ReturnType<SandboxPool['lease']>;

/**
 * Keeps `keep` sandboxes for ordinary conversions, started ahead of the first task, and further ones for owners who take
 * turns; the idle ones as long as `roomMb` of unreserved memory holds them. Each has a private folder in
 * `workFolder`. The caller calls `close()`.
 */
export function createSandboxPool({
  keep,
  roomMb,
  workFolder,
  cacheFolder,
  tasksModule,
  hidden,
  isolation,
  orphans = null,
  reuse = 'owner',
  log,
}: {
  keep: number;
  roomMb: () => number;
  workFolder: string;
  cacheFolder: string;
  tasksModule: string | undefined;
  /** Folders that sandboxes must not see. */
  hidden: string[];
  isolation: Isolation;
  /** Ends what sandboxes leave behind where they have no PID namespace. */
  orphans?: OrphanReaper | null;
  /** After native code has read bytes of an owner, a sandbox takes further tasks of that owner (`owner`), or none at all. */
  reuse?: 'owner' | 'never';
  log: Logger;
}) {
  const all = new Set<Sandbox>();
  const idle: Sandbox[] = [];
  const living = new Set<SandboxProcess>();
  /** How many are out for ordinary conversions; larger ones bring a sandbox of their own to its end. */
  let leased = 0;
  /** Killed and not gone yet. */
  const leaving = new Set<Sandbox>();
  const removals = new Set<Promise<void>>();
  let closed = false;
  let capsWork = true;

  function start(): Sandbox {
    const folder = new PrivateFolder(workFolder);
    const process = startSandboxProcess({ folder: folder.path, cacheFolder, tasksModule, hidden, isolation });
    const { child } = process;
    living.add(process);
    sandboxStarts.inc();
    for (const stream of [child.stdout, child.stderr]) {
      if (stream) readOutput(stream, (text) => sandbox.log.info({ sandbox: child.pid, text }, 'sandbox prints'));
    }
    const channel = new Channel(child, (violation) => {
      sandbox.hasViolated = true;
      sandboxViolations.inc();
      sandbox.log.warn({ sandbox: child.pid, violation }, 'sandbox sent invalid data');
    });
    const exited = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      // Without a process there will be no exit: the machine had no room for one.
      child.on('error', (error) => {
        log.error({ err: error }, 'sandbox error');
        if (child.pid === undefined) resolve();
      });
    });
    const gone = exited.then(async () => {
      living.delete(process);
      await orphans?.reap(() => [...living].map(({ child: { pid = 0 } }) => pid));
    });
    const ready = Promise.race([channel.ready, gone.then(() => Promise.reject(new Error('it did not start')))]);
    ready.then(
      () => dieFirst(process.pid),
      () => undefined,
    );
    const sandbox: Sandbox = {
      ...{ process, channel, ready, gone, folder, log },
      ...{ hasViolated: false, isLeased: false, taint: undefined, tasks: 0, capMb: null, idleMb: BASELINE_MB },
    };
    all.add(sandbox);
    // One that closes its connection can do nothing more for us.
    void channel.ended.then(() => end(sandbox));
    void gone.then(() => {
      all.delete(sandbox);
      leaving.delete(sandbox);
      const at = idle.indexOf(sandbox);
      if (at >= 0) idle.splice(at, 1);
      if (!sandbox.isLeased) removeFolder(sandbox);
    });
    return sandbox;
  }

  /** An idle sandbox for a task of this owner; else the first run starts a fresh one. */
  function take(memoryMb: number, owner: string | null): Sandbox | undefined {
    const fits = ({ idleMb }: Sandbox) => idleMb <= MAX_HELD * memoryMb;
    const own = idle.findLastIndex((sandbox) => fits(sandbox) && sandbox.taint?.owner === owner);
    const at = own >= 0 ? own : idle.findLastIndex((sandbox) => fits(sandbox) && sandbox.taint === undefined);
    return at >= 0 ? idle.splice(at, 1)[0] : undefined;
  }

  /** Keeps a sandbox if those of its owner are too few; the one that was idle for the longest leaves when all are too many. */
  function keepIdle(sandbox: Sandbox): boolean {
    const alike = idle.filter(({ taint }) => taint?.owner === sandbox.taint?.owner);
    if (alike.length >= keep) return false;
    if (idle.length >= keep * MAX_IDLE_OWNERS) end(idle[0] as Sandbox);
    idle.push(sandbox);
    return true;
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
    const at = idle.indexOf(sandbox);
    if (at >= 0) idle.splice(at, 1);
    sandbox.process.kill();
  }

  /** Idle sandboxes go first when somebody reserves what they take. Resolves when all that were killed are gone. */
  function makeRoom(): Promise<unknown> {
    while (idle.length > 0 && idleMb() > roomMb()) end(idle[0] as Sandbox);
    return Promise.all([...leaving].map(({ gone }) => gone));
  }

  function release(sandbox: Sandbox): void {
    const { process } = sandbox;
    const memory = readMemory(process.pid);
    sandbox.idleMb = memory?.residentMb ?? BASELINE_MB;
    const healthy =
      reuse === 'owner' && !leaving.has(sandbox) && sandbox.tasks < MAX_TASKS && sandbox.idleMb <= MAX_IDLE_MB;
    // What a task has started and left behind goes with its sandbox.
    const isKept = healthy && !closed && process.others().length === 0 && keepIdle(sandbox);
    if (!isKept) end(sandbox);
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
     * Takes a sandbox for a reservation of `memoryMb` that was just made; idle ones that it leaves no room for end. It
     * has never run native code on bytes of another owner than `owner`. `release` gives it back. What the sandbox does
     * meanwhile is logged to `jobLog`.
     */
    lease(memoryMb: number, owner: string | null, jobLog = log) {
      let sandbox = take(memoryMb, owner);
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
          const taint = () => {
            current.taint = { owner };
          };
          // Before the bytes are read: a sandbox that was taken over would not say so.
          if (isNative(request)) taint();
          const ran = await runIn(current, memoryMb, request, options, {
            end: () => end(current),
            onStep: (step) => isNativeStep(step) && taint(),
            onUncapped,
          });
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
      const isWarm = ({ channel, gone }: Sandbox) => Promise.race([channel.warm, gone]);
      await Promise.all([...all].map(isWarm));
    },
    /** Kills every sandbox and waits until all are gone. */
    async close(): Promise<void> {
      closed = true;
      for (const sandbox of all) sandbox.process.kill();
      await Promise.all([...all].map(({ gone }) => gone));
      await Promise.all(removals);
    },
  };
}
