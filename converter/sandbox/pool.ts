import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { PublicError } from '../../errors.ts';
import { BASELINE_MB } from '../../jobs/shape.ts';
import type { Logger } from '../../log.ts';
import type { Step } from '../../tasks/task.ts';
import type { TaskEvent, TaskOutcome, TaskRequest } from '../run-task.ts';
import { capMemory, descendantsOf, killAll, lowerPriority, readMemory, watchMemory } from './limits.ts';
import { startSandboxProcess } from './process.ts';
import type { SandboxMessage, SandboxOrder } from './protocol.ts';

/** How a run ended. `aborted` only after the converter aborted it; `died` with its sandbox, which took nothing along. */
export type RunOutcome = TaskOutcome | { kind: 'aborted' } | Death;

export interface Death {
  kind: 'died';
  /** It met its cap; a step took too long; it crashed by itself; or somebody else killed it. */
  how: 'outgrown' | 'overdue' | 'crashed' | 'killed';
  error: PublicError;
}

export interface Ran {
  outcome: RunOutcome;
  /** What it was about when it ended, if it said so. */
  step: Step | null;
  peakMemoryMb: number | null;
}

/** How a task is run, whether in a sandbox or in the converter. */
export interface RunOptions {
  deadlineMs: number;
  /** How much of that is gone already. */
  spentMs?: number;
  /** Aborted, the task is told to end; if it does not within `YIELD_MS`, it is killed. */
  signal: AbortSignal;
  /** Gets what the task tells, in order, all of it before the run resolves. */
  onEvent: (event: TaskEvent) => void;
}

/** How long a task that was told to end may take to do so. */
export const YIELD_MS = 500;

/** A healthy sandbox is used again; after this many tasks, or with this much left in memory, a fresh one is better. */
const MOST_TASKS = 200;
const MOST_IDLE_MB = BASELINE_MB + 48;
/** A sandbox for more than this works at a low priority, and is not used again. */
const LARGE_MB = 512;

/** V8's and glibc's ends when an allocation is refused. */
const OUTGROWN_SIGNALS: readonly (NodeJS.Signals | null)[] = ['SIGABRT', 'SIGTRAP'];
const OUTGROWN_CODES: readonly (number | null)[] = [133, 134];

const LONGEST_OUTPUT = 500;

interface Sandbox {
  child: ChildProcess;
  /** Resolves when its libraries are loaded; rejects when it ends before. */
  ready: Promise<unknown>;
  gone: Promise<unknown>;
  tasks: number;
  capMb: number | null;
  /** Resident memory when it last became idle. */
  idleMb: number;
}

export type SandboxPool = ReturnType<typeof createSandboxPool>;
/** A sandbox for one reservation. */
export type Lease = ReturnType<SandboxPool['lease']>;

/**
 * Keeps up to `keep` idle sandboxes, started ahead of the first task, as long as `roomMb` of memory that nobody has
 * reserved holds them. The owner calls `close()`.
 */
export function createSandboxPool({
  keep,
  roomMb,
  cacheFolder,
  tasksModule,
  log,
}: {
  keep: number;
  roomMb: () => number;
  cacheFolder: string;
  tasksModule: string | undefined;
  log: Logger;
}) {
  const all = new Set<Sandbox>();
  const idle: Sandbox[] = [];
  /** Killed and not gone yet. */
  const leaving = new Set<Sandbox>();
  let closed = false;
  let capsWork = true;

  function start(): Sandbox {
    const child = startSandboxProcess(cacheFolder, tasksModule);
    // V8 writes pages about an allocation that was refused: our log takes the first lines, and keeps its form.
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        log.info({ sandbox: child.pid, text: text.slice(0, LONGEST_OUTPUT) }, 'sandbox prints');
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
    const sandbox: Sandbox = { child, ready, gone, tasks: 0, capMb: null, idleMb: BASELINE_MB };
    all.add(sandbox);
    void gone.then(() => {
      all.delete(sandbox);
      leaving.delete(sandbox);
      const at = idle.indexOf(sandbox);
      if (at >= 0) idle.splice(at, 1);
    });
    return sandbox;
  }

  const idleMb = () => idle.reduce((sum, sandbox) => sum + sandbox.idleMb, 0);
  const hasRoom = () => !closed && idle.length < keep && idleMb() + BASELINE_MB <= roomMb();

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

  function refill(): void {
    while (hasRoom()) idle.push(start());
  }
  refill();

  return {
    /**
     * Takes a sandbox for a reservation of `memoryMb` that was just made; idle ones that it leaves no room for end.
     * `release` gives it back.
     */
    lease(memoryMb: number) {
      let sandbox: Sandbox | undefined = idle.pop();
      return {
        /** Runs one task, in a fresh process if the last one died. Never rejects: a sandbox that dies fails its own task only. */
        async run(request: TaskRequest, options: RunOptions): Promise<Ran> {
          await makeRoom();
          if (sandbox === undefined || !all.has(sandbox) || leaving.has(sandbox)) sandbox = start();
          const ran = await runIn(sandbox, memoryMb, request, options);
          const { outcome } = ran;
          const outgrown = outcome.kind === 'died' && outcome.how === 'outgrown';
          if (outgrown || outcome.kind === 'aborted' || memoryMb > LARGE_MB) {
            end(sandbox);
            await sandbox.gone;
          }
          return ran;
        },
        release(): void {
          if (sandbox !== undefined && all.has(sandbox)) release(sandbox);
          sandbox = undefined;
        },
      };
    },
    makeRoom,
    refill,
    /** Kills every sandbox and waits until all are gone. */
    async close(): Promise<void> {
      closed = true;
      for (const sandbox of all) kill(sandbox);
      await Promise.all([...all].map(({ gone }) => gone));
    },
  };

  async function runIn(
    sandbox: Sandbox,
    memoryMb: number,
    request: TaskRequest,
    { deadlineMs, spentMs = 0, signal, onEvent }: RunOptions,
  ): Promise<Ran> {
    const { child } = sandbox;
    const pid = child.pid ?? 0;
    const { stepSeconds } = request.limits;
    sandbox.tasks++;
    let step: Step | null = null;
    let killedFor: Death | undefined;
    let timedOut = false;
    let stepTimer: NodeJS.Timeout | undefined;
    let killer: NodeJS.Timeout | undefined;
    const killFor = (how: Death['how'], code: PublicError['code'], message: string) => {
      killedFor ??= { kind: 'died', how, error: { code, message } };
      end(sandbox);
    };
    const order = (message: SandboxOrder) => child.send(message, (error) => error && end(sandbox));
    const abort = (reason: string) => {
      order({ kind: 'abort', reason });
      killer ??= setTimeout(() => end(sandbox), YIELD_MS);
    };
    const onAbort = () => abort('the job was taken back');
    const deadline = setTimeout(() => {
      timedOut = true;
      abort('the time is up');
    }, deadlineMs - spentMs);

    const ended = Promise.withResolvers<RunOutcome>();
    const onMessage = (message: SandboxMessage) => {
      clearTimeout(stepTimer);
      if (message.kind === 'ended') ended.resolve(whatEnded(message.outcome));
      else if (message.kind === 'step') {
        step = message.step;
        const late = () => killFor('overdue', 'timeout', `${nameOf(step)} took longer than ${stepSeconds} s`);
        stepTimer = setTimeout(late, stepSeconds * 1000);
      } else if (message.kind !== 'ready') onEvent(message);
    };
    const onGone = (code: number | null, by: NodeJS.Signals | null) => {
      ended.resolve(killedFor ?? whatKilled(code, by));
    };
    const whatEnded = (outcome: TaskOutcome): RunOutcome =>
      outcome.kind === 'failed' && outcome.error.code === 'out_of_memory' && outcome.retryable
        ? outgrown(step, memoryMb)
        : outcome;
    const whatKilled = (code: number | null, by: NodeJS.Signals | null): Death => {
      if (OUTGROWN_SIGNALS.includes(by) || OUTGROWN_CODES.includes(code)) return outgrown(step, memoryMb);
      if (by === 'SIGKILL')
        return { kind: 'died', how: 'killed', error: { code: 'out_of_memory', message: 'its sandbox was killed' } };
      const message = `${nameOf(step)} brought its sandbox down (${by ?? `exit ${code}`})`;
      return { kind: 'died', how: 'crashed', error: { code: 'internal', message } };
    };
    child.on('message', onMessage);
    child.on('exit', onGone);
    signal.addEventListener('abort', onAbort);
    let watch: ReturnType<typeof watchMemory> | undefined;
    const begin = async () => {
      await sandbox.ready;
      if (memoryMb > LARGE_MB) lowerPriority(pid);
      sandbox.capMb = await capMemory(pid, memoryMb, sandbox.capMb);
      // Then the run has ended, and nobody would stop the watch.
      if (!all.has(sandbox)) return;
      if (sandbox.capMb === null && capsWork) {
        capsWork = false;
        log.warn('no prlimit here: sandboxes are only watched, not capped');
      }
      watch = watchMemory(pid, memoryMb, () => {
        killedFor ??= outgrown(step, memoryMb);
        end(sandbox);
      });
      if (signal.aborted) end(sandbox);
      else order({ kind: 'run', request });
    };
    begin().catch((error) => {
      ended.resolve({
        kind: 'failed',
        error: { code: 'internal', message: 'its sandbox could not be started' },
        retryable: true,
      });
      if (!timedOut && !signal.aborted) log.error({ err: error }, 'sandbox not started');
    });
    try {
      const outcome = judge(await ended.promise, { timedOut, signal, deadlineMs });
      if (outcome.kind === 'failed' || outcome.kind === 'died') {
        log.info({ ...outcome, step }, 'task failed');
      }
      return { outcome, step, peakMemoryMb: watch?.stop() ?? null };
    } finally {
      clearTimeout(deadline);
      clearTimeout(stepTimer);
      clearTimeout(killer);
      signal.removeEventListener('abort', onAbort);
      child.off('message', onMessage);
      child.off('exit', onGone);
    }
  }
}

/** What the end of a run means: one that was told to end has not failed, unless its time was up. */
export function judge<Outcome extends RunOutcome>(
  outcome: Outcome,
  { timedOut, signal, deadlineMs }: { timedOut: boolean; signal: AbortSignal; deadlineMs: number },
): Outcome | TaskOutcome | { kind: 'aborted' } {
  if (timedOut) {
    const message = `took longer than ${deadlineMs / 1000} s`;
    return { kind: 'failed', error: { code: 'timeout', message }, retryable: true };
  }
  const failed = outcome.kind === 'failed' || outcome.kind === 'died';
  return failed && signal.aborted ? { kind: 'aborted' } : outcome;
}

function outgrown(step: Step | null, memoryMb: number): Death {
  const message = `${nameOf(step)} needs more than the ${memoryMb} MB reserved`;
  return { kind: 'died', how: 'outgrown', error: { code: 'out_of_memory', message } };
}

function nameOf(step: Step | null): string {
  if (step === null) return 'the task';
  return step.page === null ? 'opening the file' : `page ${step.page}`;
}

/** Kills a sandbox with all that it has started. */
function kill({ child }: Sandbox): void {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) killAll(child.pid);
}
