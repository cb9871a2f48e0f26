import type { ChildProcess } from 'node:child_process';
import type { PublicError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { TaskEvent, TaskOutcome, TaskRequest } from '../run-task.ts';
import { readMemory, resetPeakMemory, startSandboxProcess } from './process.ts';
import type { SandboxMessage, SandboxOrder } from './protocol.ts';

/** How an attempt ended. `aborted` only after the converter aborted it. */
export type AttemptOutcome = TaskOutcome | { kind: 'aborted' };

/** How a task is run, whether in a sandbox or in the converter. */
export interface RunOptions {
  deadlineMs: number;
  /** Aborted, the task is told to end; if it does not within `YIELD_MS`, it is killed. */
  signal: AbortSignal;
  /** Gets what the task tells, in order, all of it before the run resolves. */
  onEvent: (event: TaskEvent) => void;
}

/** How long a task that was told to end may take to do so. */
export const YIELD_MS = 500;

interface Sandbox {
  child: ChildProcess;
  tasks: number;
}

/** A healthy sandbox is used again; after this many tasks, or with this much memory left in use, a fresh one is better. */
const MOST_TASKS = 200;
const MOST_IDLE_MB = 450;

/** Signals that mean the memory ran out: the kernel's killer, V8's and glibc's abort, V8's trap. */
const OUT_OF_MEMORY_SIGNALS: readonly (NodeJS.Signals | null)[] = ['SIGKILL', 'SIGABRT', 'SIGTRAP'];

export type SandboxPool = ReturnType<typeof createSandboxPool>;

/** Keeps up to `keep` idle sandboxes, started ahead of the first task. The owner calls `close()`. */
export function createSandboxPool({
  keep,
  cacheFolder,
  tasksModule,
  log,
}: {
  keep: number;
  cacheFolder: string;
  tasksModule: string | undefined;
  log: Logger;
}) {
  const all = new Set<Sandbox>();
  const idle: Sandbox[] = [];
  let closed = false;

  function start(): Sandbox {
    const sandbox: Sandbox = { child: startSandboxProcess(cacheFolder, tasksModule), tasks: 0 };
    all.add(sandbox);
    const forget = () => {
      all.delete(sandbox);
      const at = idle.indexOf(sandbox);
      if (at >= 0) idle.splice(at, 1);
    };
    sandbox.child.on('exit', forget);
    // Without a process there will be no exit: the machine had no room for one.
    sandbox.child.on('error', (error) => {
      log.error({ err: error }, 'sandbox error');
      if (sandbox.child.pid === undefined) forget();
    });
    return sandbox;
  }

  function release(sandbox: Sandbox): void {
    const memory = readMemory(sandbox.child);
    const worn = sandbox.tasks >= MOST_TASKS || (memory !== null && memory.nowMb > MOST_IDLE_MB);
    if (worn || closed || idle.length >= keep || !sandbox.child.connected) sandbox.child.kill('SIGKILL');
    else idle.push(sandbox);
    if (worn && !closed && idle.length < keep) idle.push(start());
  }

  for (let started = 0; started < keep; started++) idle.push(start());

  return {
    /** Runs one task. Never rejects: a sandbox that dies or overruns `deadlineMs` fails its own task only. */
    async run(
      request: TaskRequest,
      { deadlineMs, signal, onEvent }: RunOptions,
    ): Promise<{ outcome: AttemptOutcome; peakMemoryMb: number | null }> {
      const sandbox = idle.pop() ?? start();
      const { child } = sandbox;
      sandbox.tasks++;
      resetPeakMemory(child);
      let timedOut = false;
      let killer: NodeJS.Timeout | undefined;
      const kill = () => child.kill('SIGKILL');
      const order = (message: SandboxOrder) => child.send(message, (error) => error && kill());
      const abort = (reason: string) => {
        order({ kind: 'abort', reason });
        killer ??= setTimeout(kill, YIELD_MS);
      };
      const onAbort = () => abort('the job was taken back');
      const deadline = setTimeout(() => {
        timedOut = true;
        abort('the time is up');
      }, deadlineMs);
      signal.addEventListener('abort', onAbort);

      const ended = Promise.withResolvers<AttemptOutcome>();
      const onMessage = (message: SandboxMessage) => {
        if (message.kind === 'ended') ended.resolve(judge(message.outcome, { timedOut, signal, deadlineMs }));
        else if (message.kind !== 'ready') onEvent(message);
      };
      const onGone = (code: number | null, by: NodeJS.Signals | null) => {
        const died = OUT_OF_MEMORY_SIGNALS.includes(by)
          ? failed('out_of_memory', `its sandbox died (${by})`)
          : failed('internal', `its sandbox died (${by ?? `exit ${code}`})`);
        ended.resolve(judge(died, { timedOut, signal, deadlineMs }));
      };
      const onError = () => {
        if (child.pid === undefined) ended.resolve(failed('internal', 'its sandbox could not be started'));
      };
      child.on('message', onMessage);
      child.on('exit', onGone);
      child.on('error', onError);
      try {
        if (signal.aborted) kill();
        else order({ kind: 'run', request });
        const outcome = await ended.promise;
        if (outcome.kind === 'failed') log.info({ error: outcome.error, detail: outcome.detail }, 'task failed');
        return { outcome, peakMemoryMb: readMemory(child)?.peakMb ?? null };
      } finally {
        clearTimeout(deadline);
        clearTimeout(killer);
        signal.removeEventListener('abort', onAbort);
        child.off('message', onMessage);
        child.off('exit', onGone);
        child.off('error', onError);
        if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) release(sandbox);
      }
    },
    /** Kills every sandbox and waits until all are gone. */
    async close(): Promise<void> {
      closed = true;
      await Promise.all(
        [...all].map(({ child }) => {
          const gone = new Promise((resolve) => child.once('exit', resolve));
          child.kill('SIGKILL');
          return gone;
        }),
      );
    },
  };
}

/** What the end of a task means: one that was told to end has not failed, unless its time was up. */
export function judge(
  outcome: TaskOutcome,
  { timedOut, signal, deadlineMs }: { timedOut: boolean; signal: AbortSignal; deadlineMs: number },
): AttemptOutcome {
  if (timedOut) return failed('timeout', `took longer than ${deadlineMs / 1000} s`);
  return outcome.kind === 'failed' && signal.aborted ? { kind: 'aborted' } : outcome;
}

function failed(code: PublicError['code'], message: string): TaskOutcome {
  return { kind: 'failed', error: { code, message }, retryable: true };
}
