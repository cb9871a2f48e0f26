import type { ChildProcess, ForkOptions } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { descendantsOf, killAll } from './process-tree.ts';
import { forkWithSecrets } from './secrets.ts';

export interface Limits {
  restartAfterMs: number;
  /** The interval of liveness checks. */
  checkMs: number;
  /** Checks are counted instead of time, since a machine that sleeps makes no check. */
  maxMissedChecks: number;
  /** A part that takes longer to end is killed. */
  endMs: number;
}

export type Message = { kind?: string; url?: string };

export interface Part {
  /** Its first `ready` message. */
  ready: Promise<Message>;
  /** Ends it with all processes that it has started. Resolves shortly after `endMs` at the latest. */
  stop(): Promise<void>;
}

/** Keeps a part of `npm start` running: a process that sends `ready`, and that is replaced when it ends or hangs. */
export function supervise(
  name: string,
  script: string,
  options: ForkOptions & {
    secrets: NodeJS.ProcessEnv;
    limits: Limits;
    onMessage?: (message: Message) => void;
    onHang?: () => void;
  },
): Part {
  const { secrets, limits, onMessage, onHang, ...forkOptions } = options;
  let child: ChildProcess;
  let isStopping = false;

  async function start(): Promise<Message> {
    // In a separate process group, Ctrl-C reaches only the parent, which ends its parts in order.
    child = forkWithSecrets(script, secrets, { ...forkOptions, detached: true });
    const started = child;
    const exited = once(started, 'exit');
    const ready = Promise.withResolvers<Message | undefined>();
    const onAlive = watch(started, limits, () => onHang?.());
    started.on('message', (message: Message) => {
      // `ready` counts as an answer, so that a part that hangs before its first check is replaced.
      if (message.kind === 'alive' || message.kind === 'ready') onAlive();
      if (message.kind === 'ready') ready.resolve(message);
      else if (message.kind !== 'alive') onMessage?.(message);
    });
    // A check may reach a part that has ended; its exit event reports that.
    started.on('error', () => undefined);
    void exited.then(() => ready.resolve(undefined));
    const report = await ready.promise;
    if (report === undefined) throw new Error(`the ${name} did not start`);
    void exited.then(restart);
    return report;
  }

  async function restart(): Promise<void> {
    await delay(limits.restartAfterMs);
    if (!isStopping) await start().catch(restart);
  }

  return {
    ready: start(),
    async stop() {
      isStopping = true;
      if (hasEnded(child)) return;
      const exited = once(child, 'exit');
      const deadline = setTimeout(() => killPart(child), limits.endMs);
      child.kill('SIGTERM');
      await exited;
      clearTimeout(deadline);
    },
  };
}

/** Kills a part that has answered once and no longer does. Returns the function to call at each answer. */
function watch(child: ChildProcess, { checkMs, maxMissedChecks }: Limits, onHang: () => void): () => void {
  let hasAnswered = false;
  let isCheckPending = false;
  let missed = 0;
  const checking = setInterval(() => {
    // A pending check is not repeated, so that messages to a hanging part do not pile up.
    if (isCheckPending) missed++;
    else if (child.connected) child.send({ kind: 'check' }, () => undefined);
    isCheckPending = true;
    if (!hasAnswered || missed <= maxMissedChecks) return;
    clearInterval(checking);
    onHang();
    killPart(child);
  }, checkMs);
  child.once('exit', () => clearInterval(checking));
  return function onAlive() {
    hasAnswered = true;
    isCheckPending = false;
    missed = 0;
  };
}

/** SIGSTOP first, so that the part starts no process while its descendants are listed. */
function killPart(child: ChildProcess): void {
  if (child.pid === undefined || hasEnded(child)) return;
  child.kill('SIGSTOP');
  killAll([-child.pid, ...descendantsOf(child.pid)]);
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
