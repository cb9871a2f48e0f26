import { randomUUID } from 'node:crypto';
import type { StoredFile } from '../conversion/record-pages.ts';
import { convertRangePayload } from '../conversion/tasks/convert-range.ts';
import type { UploadTaskDefinition } from '../conversion/upload-task.ts';
import type { Database } from '../db/client.ts';
import type { PageRange } from '../db/schema.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import type { Outcome } from '../jobs/settle.ts';
import type { Config } from '../runtime/config.ts';
import type { Logger } from '../runtime/log.ts';
import type { Store } from '../store/store.ts';
import { attemptOutcome } from './attempt-outcome.ts';
import { type PrepareRetry, runWithRecovery } from './continue-after-crash.ts';
import { AttemptFiles } from './files/attempt-files.ts';
import type { PrivateFolder } from './files/private-folder.ts';
import { copyInputs, type Inputs, readInputs } from './inputs.ts';
import { PageRecorder } from './page-recorder.ts';
import { persist } from './retry-until-stored.ts';
import type { TaskEvent, TaskRequest } from './run-task.ts';
import type { RunOptions, TaskRunner } from './task-runner.ts';

interface Parts {
  db: Database;
  store: Store;
  config: Config;
  workFolder: string;
  log: Logger;
}

interface AttemptOptions {
  /** The upload whose files the task reads or makes. */
  uploadId: string | null;
  runner: Pick<TaskRunner, 'run'>;
  /** Aborted when the converter stops. */
  stop: AbortSignal;
  /** Aborted here or by the caller when the job no longer belongs to this attempt. */
  lost: AbortController;
  /** Aborted with either of these. */
  giveUp: AbortSignal;
  /** Called while the job waits for the store or the database. */
  onWait: () => void;
  /** Records a log line or progress. A returned promise delays further events. */
  record: (event: TaskEvent & { kind: 'log' | 'progress' }) => Promise<void> | undefined;
}

interface AttemptEnd {
  outcome: Outcome;
  peakMemoryMb: number | null;
}

/**
 * Runs the task of one attempt, from reading its inputs to storing its results. Waits while the store or the database is
 * unavailable. Rejects with RejectedOutput for invalid results.
 */
export async function runAttempt(
  parts: Parts,
  job: ClaimedJob,
  task: UploadTaskDefinition,
  options: AttemptOptions,
): Promise<AttemptEnd> {
  const attempt = new Attempt(parts, job, task, options);
  try {
    return await attempt.run();
  } finally {
    await attempt.close();
  }
}

class Attempt {
  readonly #parts: Parts;
  readonly #job: ClaimedJob;
  readonly #task: UploadTaskDefinition;
  readonly #options: AttemptOptions;
  readonly #files: AttemptFiles;
  readonly #recorder: PageRecorder;
  /** Aborted when pages cannot be recorded. */
  readonly #broken = new AbortController();
  /** The folder of the process that runs the task now. */
  #folder: PrivateFolder | undefined;

  constructor(parts: Parts, job: ClaimedJob, task: UploadTaskDefinition, options: AttemptOptions) {
    const { db, store, log } = parts;
    this.#parts = parts;
    this.#job = job;
    this.#task = task;
    this.#options = options;
    this.#files = new AttemptFiles(store, parts.workFolder);
    this.#recorder = new PageRecorder(
      {
        ...{ db, job, log, stop: options.stop },
        discard: (path) => store.removeFile(path),
        onLost: () => options.lost.abort(),
        onBroken: () => this.#broken.abort(),
      },
      selectedPages(job, task),
    );
  }

  async run(): Promise<AttemptEnd> {
    const { uploadId, runner } = this.#options;
    const inputs = await this.#persist(() => readInputs(this.#parts.db, this.#job, uploadId, this.#task.readsOnly));
    this.#recorder.addSettled(inputs.settledPages);
    const memory = { reservedMb: this.#job.memoryMb, maxMb: this.#parts.config.CAPACITY_MEMORY_MB };
    const result = await runWithRecovery(runner, this.#prepareWith(inputs), this.#runOptions(), memory);
    await this.#recorder.flush();
    const outcome = attemptOutcome(result, this.#job, this.#task, this.#recorder.left);
    const { peakMemoryMb } = result;
    if (outcome.kind !== 'completed') return { outcome, peakMemoryMb };
    const file = await this.#publishFile();
    return { outcome: { ...outcome, result: { ...outcome.result, ...file } }, peakMemoryMb };
  }

  /** Frees what the attempt took. Never rejects. */
  async close(): Promise<void> {
    // The folders are about to be removed; `run` has reported the error of a failed recording.
    await this.#recorder.flush().catch(() => undefined);
    await this.#files.close();
  }

  #runOptions(): RunOptions {
    const { timeoutSeconds, payload } = this.#job;
    const { stop, lost } = this.#options;
    return {
      deadlineMs: timeoutSeconds * 1000,
      spentOnPage: () => Number(payload.spent_seconds ?? 0),
      signal: AbortSignal.any([stop, lost.signal, this.#broken.signal]),
      onEvent: (event) => this.#onEvent(event),
    };
  }

  #prepareWith(inputs: Inputs): PrepareRetry {
    const fixed = requestOf(this.#job, this.#parts.config);
    return async (folder, failedSteps) => {
      const local = await this.#persist(() => copyInputs(this.#files, folder, inputs, this.#options.giveUp));
      this.#folder = folder;
      // A retry continues where the last run ended.
      const settledPages = this.#recorder.settled;
      return { ...fixed, ...inputs, ...local, settledPages, failedSteps, outputFolder: folder.output };
    };
  }

  /** Returns a promise while too many events wait to be stored. */
  #onEvent(event: TaskEvent): Promise<void> | undefined {
    if (event.kind === 'log' || event.kind === 'progress') return this.#options.record(event);
    if (event.kind === 'page') {
      // The task may continue in another folder before this page is stored.
      const folder = this.#currentFolder();
      return this.#recorder.page(event.report, (report, storePath) =>
        this.#persist(() => this.#files.publishPage(folder, report, storePath)),
      );
    }
    if (event.kind === 'inspected') this.#recorder.inspected(event.found);
    return undefined;
  }

  async #publishFile(): Promise<StoredFile | undefined> {
    const { uploadId } = this.#options;
    if (this.#task.filePath === undefined || uploadId === null) return undefined;
    const storePath = this.#task.filePath(uploadId, randomUUID());
    return this.#persist(() => this.#files.publishFile(this.#currentFolder(), storePath));
  }

  #currentFolder(): PrivateFolder {
    if (this.#folder === undefined) throw new Error('the task has not started');
    return this.#folder;
  }

  #persist<T>(work: () => Promise<T>): Promise<T> {
    return persist(this.#parts.log, this.#options.giveUp, work, this.#options.onWait);
  }
}

/** The pages of a range; a whole original is selected when it is inspected. */
function selectedPages(job: ClaimedJob, task: UploadTaskDefinition): PageRange[] {
  return task.internal ? (convertRangePayload.shape.pages.safeParse(job.payload.pages).data ?? []) : [];
}

/** The parts of a request that come from the job and the configuration. */
function requestOf(job: ClaimedJob, config: Config) {
  return {
    type: job.type,
    payload: job.payload,
    attempt: job.attempt,
    reservation: { cpuUnits: job.cpuUnits, memoryMb: job.memoryMb },
    limits: {
      maxPages: config.MAX_PAGES,
      maxPixels: config.MAX_PIXELS,
      stepSeconds: config.PAGE_TIMEOUT_SECONDS,
      firstEngine: config.PDF_ENGINE,
    },
  } satisfies Partial<TaskRequest>;
}
