import { BASELINE_MB } from '../../jobs/shape.ts';
import type { Logger } from '../../runtime/log.ts';
import { PrivateFolder } from '../files/private-folder.ts';
import { sandboxStarts, sandboxViolations } from '../metrics.ts';
import { Channel } from './channel.ts';
import { limitMemory, readMemory, setOomScore } from './memory-limit.ts';
import { type SandboxOptions, type SandboxProcess, startSandboxProcess } from './process.ts';
import { readOutput } from './read-output.ts';

interface Options extends Omit<SandboxOptions, 'folder'> {
  workFolder: string;
  log: Logger;
  /** Called when the process has exited; kills what the sandbox left behind. */
  onExit: () => Promise<void> | undefined;
}

/** One child process that runs tasks, one at a time, with its connection and its private folder. */
export class Sandbox {
  readonly process: SandboxProcess;
  readonly channel: Channel;
  /** Kept until the process is gone and its results are stored. */
  readonly folder: PrivateFolder;
  /** Resolves when the libraries are loaded; rejects when the process exits before. */
  readonly ready: Promise<void>;
  /** Resolves when the process has exited, and all that it started is gone. */
  readonly gone: Promise<void>;
  /** The log of the job that it runs, or ran last. */
  log: Logger;
  /** A lease still needs its folder. */
  isLeased = false;
  /** The owner whose bytes its native code has decoded; undefined while there is none. See `reuse.ts`. */
  #taint: { owner: string | null } | undefined;
  #taskCount = 0;
  #memoryLimitMb: number | null = null;
  #idleMb = BASELINE_MB;
  #hasViolated = false;
  #isEnding = false;
  #hasExited = false;
  #isGone = false;

  constructor({ workFolder, log, onExit, ...options }: Options) {
    this.log = log;
    this.folder = new PrivateFolder(workFolder);
    this.process = startSandboxProcess({ ...options, folder: this.folder.path });
    sandboxStarts.inc();
    this.#logOutput();
    this.channel = new Channel(this.process.child, (violation) => this.#onViolation(violation));
    this.gone = this.#exited().then(async () => {
      this.#hasExited = true;
      await onExit();
      this.#isGone = true;
    });
    const failed = this.gone.then(() => Promise.reject(new Error('sandbox exited before it was ready')));
    this.ready = Promise.race([this.channel.ready, failed]);
    this.ready.then(
      () => setOomScore(this.process.pid),
      () => undefined,
    );
    // Without its connection, a sandbox is useless.
    void this.channel.ended.then(() => this.end());
  }

  /** It can take a task. */
  get isUsable(): boolean {
    return !this.#isEnding && !this.#isGone;
  }

  /** `end` was called, and the process may still run. */
  get isEnding(): boolean {
    return this.#isEnding && !this.#isGone;
  }

  /** The id of the process that the converter started; undefined once it has exited. */
  get runningPid(): number | undefined {
    return this.#hasExited ? undefined : this.process.child.pid;
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  get hasViolated(): boolean {
    return this.#hasViolated;
  }

  get taskCount(): number {
    return this.#taskCount;
  }

  /** Resident memory when it last became idle. */
  get idleMb(): number {
    return this.#idleMb;
  }

  get isTainted(): boolean {
    return this.#taint !== undefined;
  }

  isTaintedBy(owner: string | null): boolean {
    return this.#taint?.owner === owner;
  }

  taintBy(owner: string | null): void {
    this.#taint = { owner };
  }

  hasSameTaint(other: Sandbox): boolean {
    return this.#taint?.owner === other.#taint?.owner;
  }

  countTask(): void {
    this.#taskCount++;
  }

  measureIdleMemory(): void {
    this.#idleMb = readMemory(this.process.pid)?.residentMb ?? BASELINE_MB;
  }

  /** Limits its memory for the next task. Returns false where the kernel cannot. */
  async limitMemory(memoryMb: number): Promise<boolean> {
    const { pid, uid } = this.process;
    this.#memoryLimitMb = await limitMemory(pid, memoryMb, this.#memoryLimitMb, uid);
    return this.#memoryLimitMb !== null;
  }

  /** Kills the process; `gone` resolves later. */
  end(): void {
    this.#isEnding = true;
    this.process.kill();
  }

  #onViolation(violation: string): void {
    this.#hasViolated = true;
    sandboxViolations.inc();
    this.log.warn({ sandbox: this.process.child.pid, violation }, 'sandbox sent invalid data');
  }

  #exited(): Promise<void> {
    const { child } = this.process;
    return new Promise((resolve) => {
      child.once('exit', () => resolve());
      child.on('error', (error) => {
        this.log.error({ err: error }, 'sandbox process error');
        // A process that could not be started emits no exit.
        if (child.pid === undefined) resolve();
      });
    });
  }

  #logOutput(): void {
    const { child } = this.process;
    for (const stream of [child.stdout, child.stderr]) {
      if (stream) readOutput(stream, (text) => this.log.info({ sandbox: child.pid, text }, 'sandbox output'));
    }
  }
}
