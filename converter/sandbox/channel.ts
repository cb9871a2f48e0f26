import type { ChildProcess } from 'node:child_process';
import { Duplex } from 'node:stream';
import type { TaskRequest } from '../run-task.ts';
import { Lines } from './line-splitter.ts';
import { parseMessage, type RunMessage, type SandboxMessage, type SandboxOrder, Violation } from './protocol.ts';
import { RunCheck } from './run-check.ts';

/** `ready` and `warm` are all that a sandbox sends between two tasks. */
const MAX_IDLE_LINE_BYTES = 64;

/** Takes a message that was checked; no further one is read before its promise has settled. */
export type OnMessage = (message: RunMessage) => Promise<void> | undefined;

/**
 * The converter's end of the connection to one sandbox. It holds one line at most, and everything that it hands on is
 * checked. The first violation ends the reading.
 */
export class Channel {
  /** Resolves when the libraries of the sandbox are loaded. */
  readonly ready: Promise<void>;
  /** Resolves when the sandbox has compiled what an ordinary page runs, or has work. */
  readonly warm: Promise<void>;
  /** Resolves when nothing more will be read. */
  readonly ended: Promise<void>;
  readonly #stream: Duplex;
  readonly #lines = new Lines(MAX_IDLE_LINE_BYTES);
  readonly #becomeReady: () => void;
  readonly #becomeWarm: () => void;
  #isReady = false;
  #isWarm = false;
  #run: { check: RunCheck; onMessage: OnMessage } | undefined;

  constructor({ stdio }: Pick<ChildProcess, 'stdio'>, onViolation: (reason: string) => void) {
    const ready = Promise.withResolvers<void>();
    const warm = Promise.withResolvers<void>();
    [this.ready, this.#becomeReady] = [ready.promise, ready.resolve];
    [this.warm, this.#becomeWarm] = [warm.promise, warm.resolve];
    // A process that could not be started has no connection.
    const connection = stdio?.[3];
    const stream = connection instanceof Duplex ? connection : new Duplex().destroy();
    this.#stream = stream;
    // It ends the reading.
    stream.on('error', () => undefined);
    this.ended = this.#readAll(onViolation);
  }

  /** Sends a task; its messages are read until `ended`, which is the last. */
  run(request: TaskRequest, onMessage: OnMessage): void {
    const check = new RunCheck(request);
    this.#run = { check, onMessage };
    this.#lines.maxBytes = check.maxLineBytes;
    // With work to do, it compiles nothing in advance.
    this.#becomeWarm();
    this.#send({ kind: 'run', request });
  }

  abort(reason: string): void {
    this.#send({ kind: 'abort', reason });
  }

  close(): void {
    this.#stream.destroy();
  }

  #send(order: SandboxOrder): void {
    if (!this.#stream.destroyed) this.#stream.write(`${JSON.stringify(order)}\n`);
  }

  async #readAll(onViolation: (reason: string) => void): Promise<void> {
    try {
      for await (const chunk of this.#stream) {
        for (const line of this.#lines.cut(chunk)) {
          const handled = this.#take(line);
          if (handled !== undefined) await handled;
        }
      }
    } catch (error) {
      // A connection that breaks is no violation: the end of the process says why.
      const isOfConnection = error === this.#stream.errored || Object(error).code === 'ERR_STREAM_PREMATURE_CLOSE';
      if (!isOfConnection) onViolation(error instanceof Error ? error.message : 'unknown');
    } finally {
      this.#stream.destroy();
    }
  }

  #take(line: Buffer): Promise<void> | undefined {
    this.#run?.check.spend(line.length);
    const message = parseMessage(line);
    if (message.kind === 'ready' || message.kind === 'warm') return this.#takeStart(message);
    if (this.#run === undefined) throw new Violation(`${message.kind} without a task`);
    const { check, onMessage } = this.#run;
    check.check(message);
    if (message.kind === 'ended') {
      this.#run = undefined;
      this.#lines.maxBytes = MAX_IDLE_LINE_BYTES;
    }
    return onMessage(message);
  }

  #takeStart({ kind }: Extract<SandboxMessage, { kind: 'ready' | 'warm' }>): undefined {
    if (kind === 'ready' ? this.#isReady : this.#isWarm || !this.#isReady)
      throw new Violation(`${kind} at a wrong time`);
    if (kind === 'ready') this.#isReady = true;
    else this.#isWarm = true;
    if (kind === 'ready') this.#becomeReady();
    else this.#becomeWarm();
  }
}
