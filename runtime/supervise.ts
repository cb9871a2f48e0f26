import type { ChildProcess, ForkOptions } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { descendantsOf, killAll } from './process-tree.ts';
import { forkWithSecrets } from './secrets.ts';

/** Keeps one part of `npm start` running: a process that reports when it is ready, and that is replaced when it ends or hangs. */

export interface Limits {
  restartAfterMs: number;
  /** How often the part is asked for a sign of life. */
  checkMs: number;
  /** How many checks it may leave unanswered. Checks are counted, not time: a machine that sleeps makes no check. */
  maxMissedChecks: number;
  /** How long it may take to end before it is killed. */
  endMs: number;
}

export type Message = { kind?: string; url?: string };

export interface Part {
  /** Its report when it was ready for the first time. */
  ready: Promise<Message>;
  /** Ends it and everything that it has started. Resolves within `endMs`, and a moment for the kill. */
  stop(): Promise<void>;
}

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
    // A separate group: Ctrl-C reaches this process alone, which then ends the others in order.
    child = forkWithSecrets(script, secrets, { ...forkOptions, detached: true });
    const started = child;
    const exited = once(started, 'exit');
    const ready = Promise.withResolvers<Message | undefined>();
    const onAlive = watch(started, limits, () => onHang?.());
    started.on('message', (message: Message) => {
      // A part that is ready answers, even if it hangs before its first check.
      if (message.kind === 'alive' || message.kind === 'ready') onAlive();
      if (message.kind === 'ready') ready.resolve(message);
      else if (message.kind !== 'alive') onMessage?.(message);
    });
    // It may have ended when it is asked.
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

/** Kills a part that has answered once and no longer does. Gives what to call at each answer. */
function watch(child: ChildProcess, { checkMs, maxMissedChecks }: Limits, onHang: () => void): () => void {
  let hasAnswered = false;
  let isAsked = false;
  let missed = 0;
  const checking = setInterval(() => {
    // A question that waits for its answer is not repeated, so that nothing piles up for a part that hangs.
    if (isAsked) missed++;
    else if (child.connected) child.send({ kind: 'check' }, () => undefined);
    isAsked = true;
    if (!hasAnswered || missed <= maxMissedChecks) return;
    clearInterval(checking);
    onHang();
    killPart(child);
  }, checkMs);
  child.once('exit', () => clearInterval(checking));
  return function onAlive() {
    hasAnswered = true;
    isAsked = false;
    missed = 0;
  };
}

/** Stops it first, so that it starts nothing while its descendants are looked up. */
function killPart(child: ChildProcess): void {
  if (child.pid === undefined || hasEnded(child)) return;
  child.kill('SIGSTOP');
  killAll([-child.pid, ...descendantsOf(child.pid)]);
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
