import type { ChildProcess } from 'node:child_process';
import { Duplex } from 'node:stream';
import { errorCode, errorMessage } from '../../runtime/errors.ts';
import type { TaskRequest } from '../run-task.ts';
import { LineSplitter } from './line-splitter.ts';
import { parseMessage, type RunMessage, type SandboxMessage, type SandboxOrder, Violation } from './protocol.ts';
import { RunCheck } from './run-check.ts';

/** Between two tasks, a sandbox sends only `ready` and `warm`. */
const MAX_IDLE_LINE_BYTES = 64;

/** Handles a valid message. The next one is read after the returned promise settles. */
export type OnMessage = (message: RunMessage) => Promise<void> | undefined;

/**
 * The converter's side of the connection to one sandbox. It buffers at most one line, and passes on only valid messages.
 * The first invalid message ends the connection.
 */
export class Channel {
  /** Resolves when the sandbox has loaded its libraries. */
  readonly ready: Promise<void>;
  /** Resolves when the sandbox has compiled the code of an ordinary page, or runs a task. */
  readonly warm: Promise<void>;
  /** Resolves when the connection has ended. */
  readonly ended: Promise<void>;
  readonly #stream: Duplex;
  readonly #lines = new LineSplitter(MAX_IDLE_LINE_BYTES);
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
    // A process that could not be started has none.
    const connection = stdio?.[3];
    const stream = connection instanceof Duplex ? connection : new Duplex().destroy();
    this.#stream = stream;
    // `#readAll` gets the error.
    stream.on('error', () => undefined);
    this.ended = this.#readAll(onViolation);
  }

  /** Sends a task, and passes its messages on until the last one, `ended`. */
  run(request: TaskRequest, onMessage: OnMessage): void {
    const check = new RunCheck(request);
    this.#run = { check, onMessage };
    this.#lines.maxBytes = check.maxLineBytes;
    // A sandbox with a task does not warm up further.
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
        for (const line of this.#lines.split(chunk)) {
          const handled = this.#handle(line);
          if (handled !== undefined) await handled;
        }
      }
    } catch (error) {
      // A broken connection is no violation: the exit of the process explains it.
      const isBroken = error === this.#stream.errored || errorCode(error) === 'ERR_STREAM_PREMATURE_CLOSE';
      if (!isBroken) onViolation(errorMessage(error));
    } finally {
      this.#stream.destroy();
    }
  }

  #handle(line: Buffer): Promise<void> | undefined {
    this.#run?.check.spend(line.length);
    const message = parseMessage(line);
    if (message.kind === 'ready' || message.kind === 'warm') return this.#becomes(message);
    if (this.#run === undefined) throw new Violation(`${message.kind} without a task`);
    const { check, onMessage } = this.#run;
    check.check(message);
    if (message.kind === 'ended') {
      this.#run = undefined;
      this.#lines.maxBytes = MAX_IDLE_LINE_BYTES;
    }
    return onMessage(message);
  }

  #becomes({ kind }: Extract<SandboxMessage, { kind: 'ready' | 'warm' }>): undefined {
    if (kind === 'ready' ? this.#isReady : this.#isWarm || !this.#isReady) throw new Violation(`unexpected ${kind}`);
    if (kind === 'ready') this.#isReady = true;
    else this.#isWarm = true;
    if (kind === 'ready') this.#becomeReady();
    else this.#becomeWarm();
  }
}
