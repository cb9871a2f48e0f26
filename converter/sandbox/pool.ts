import type { ChildProcess } from 'node:child_process';
import type { PublicError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { TaskReturn } from '../../tasks/task.ts';
import { readMemory, resetPeakMemory, startSandboxProcess } from './process.ts';
import type { SandboxEvent, SandboxMessage, SandboxRequest } from './protocol.ts';

/** How a task in a sandbox ended. `killed` only after `signal` was aborted. */
export type SandboxOutcome =
  | TaskReturn
  | { kind: 'failed'; error: PublicError; retryable: boolean }
  | { kind: 'killed' };

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
export function createSandboxPool({ keep, cacheFolder, log }: { keep: number; cacheFolder: string; log: Logger }) {
  const all = new Set<Sandbox>();
  const idle: Sandbox[] = [];
  let closed = false;

  function start(): Sandbox {
    const sandbox: Sandbox = { child: startSandboxProcess(cacheFolder), tasks: 0 };
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
    /**
     * Runs one task. Never rejects: a sandbox that dies or overruns `deadlineMs` fails its own task only. An abort of
     * `signal` kills it. `onEvent` gets what the task tells, in order, all of it before the promise resolves.
     */
    async run(
      request: SandboxRequest,
      {
        deadlineMs,
        signal,
        onEvent,
      }: { deadlineMs: number; signal: AbortSignal; onEvent: (event: SandboxEvent) => void },
    ): Promise<{ outcome: SandboxOutcome; peakMemoryMb: number | null }> {
      const sandbox = idle.pop() ?? start();
      const { child } = sandbox;
      sandbox.tasks++;
      resetPeakMemory(child);
      let timedOut = false;
      const kill = () => child.kill('SIGKILL');
      const deadline = setTimeout(() => {
        timedOut = true;
        kill();
      }, deadlineMs);
      signal.addEventListener('abort', kill);

      const ended = Promise.withResolvers<SandboxOutcome>();
      const onMessage = (message: SandboxMessage) => {
        if (message.kind === 'inspected' || message.kind === 'page') onEvent(message);
        else if (message.kind === 'returned') ended.resolve(message.value);
        else if (message.kind === 'threw') {
          log.info({ error: message.error, detail: message.detail }, 'task failed');
          ended.resolve({ kind: 'failed', error: message.error, retryable: message.retryable });
        }
      };
      const onGone = (code: number | null, by: NodeJS.Signals | null) => {
        if (signal.aborted) ended.resolve({ kind: 'killed' });
        else if (timedOut) ended.resolve(failed('timeout', `took longer than ${deadlineMs / 1000} s`));
        else if (OUT_OF_MEMORY_SIGNALS.includes(by)) ended.resolve(failed('out_of_memory', `its sandbox died (${by})`));
        else ended.resolve(failed('internal', `its sandbox died (${by ?? `exit ${code}`})`));
      };
      const onError = () => {
        if (child.pid === undefined) ended.resolve(failed('internal', 'its sandbox could not be started'));
      };
      child.on('message', onMessage);
      child.on('exit', onGone);
      child.on('error', onError);
      try {
        if (signal.aborted) kill();
        else child.send(request, (error) => error && kill());
        const outcome = await ended.promise;
        return { outcome, peakMemoryMb: readMemory(child)?.peakMb ?? null };
      } finally {
        clearTimeout(deadline);
        signal.removeEventListener('abort', kill);
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

function failed(code: PublicError['code'], message: string): SandboxOutcome {
  return { kind: 'failed', error: { code, message }, retryable: true };
}
