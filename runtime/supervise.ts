import type { ChildProcess, ForkOptions } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { descendantsOf, killAll } from './process-tree.ts';
import { forkWithSecrets } from './secrets.ts';

/** Keeps one part of `sheetmill serve` running: restarts its process when it exits or hangs. */

export interface PartLimits {
  restartAfterMs: number;
  /** The interval of heartbeats. */
  checkMs: number;
  /** Heartbeats that the part may miss. They are counted, not timed: a machine that sleeps sends none. */
  maxMissedChecks: number;
  /** The part is killed if it takes longer to end. */
  endMs: number;
}

type PartMessage = { kind?: string; url?: string };

export interface PartOptions extends ForkOptions {
  secrets: NodeJS.ProcessEnv;
  limits: PartLimits;
  onMessage?: (message: PartMessage) => void;
  onHang?: () => void;
}

export interface Part {
  /** The report of its first start. */
  ready: Promise<PartMessage>;
  /** Ends it and everything that it has started, within `endMs` and the time of a kill. */
  stop(): Promise<void>;
}

export function supervise(name: string, script: string, options: PartOptions): Part {
  const { secrets, limits, onMessage, onHang, ...forkOptions } = options;
  let child: ChildProcess;
  let isStopping = false;

  async function start(): Promise<PartMessage> {
    // In a separate process group Ctrl-C does not reach the part, so that this process ends the parts in order.
    child = forkWithSecrets(script, secrets, { ...forkOptions, detached: true });
    const exited = once(child, 'exit');
    const ready = Promise.withResolvers<PartMessage | undefined>();
    const onAlive = watch(child, limits, () => onHang?.());
    child.on('message', (message: PartMessage) => {
      // A ready part counts as alive, so that it is killed if it hangs before its first heartbeat.
      if (message.kind === 'alive' || message.kind === 'ready') onAlive();
      if (message.kind === 'ready') ready.resolve(message);
      else if (message.kind !== 'alive') onMessage?.(message);
    });
    // A message to a part that has just exited fails; its exit is handled below.
    child.on('error', () => undefined);
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
      await endPart(child, limits.endMs);
    },
  };
}

/** Kills a part that has answered once and no longer does. Returns the function to call at each answer. */
function watch(child: ChildProcess, { checkMs, maxMissedChecks }: PartLimits, onHang: () => void): () => void {
  let hasAnswered = false;
  let isCheckPending = false;
  let missed = 0;
  const checking = setInterval(() => {
    // An unanswered heartbeat is not sent again, so that messages do not pile up in the channel of a hanging part.
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

async function endPart(child: ChildProcess, timeoutMs: number): Promise<void> {
  if (hasEnded(child)) return;
  const exited = once(child, 'exit');
  const deadline = setTimeout(() => killPart(child), timeoutMs);
  child.kill('SIGTERM');
  await exited;
  clearTimeout(deadline);
}

/** Stops the part first, so that it starts nothing while its descendants are looked up. */
function killPart(child: ChildProcess): void {
  if (child.pid === undefined || hasEnded(child)) return;
  child.kill('SIGSTOP');
  killAll([-child.pid, ...descendantsOf(child.pid)]);
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
