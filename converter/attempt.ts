import { randomUUID } from 'node:crypto';
import type { StoredFile } from '../conversion/record-pages.ts';
import type { UploadTask } from '../conversion/upload-task.ts';
import type { Database } from '../db/client.ts';
import type { PageRange } from '../db/schema.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import type { Outcome } from '../jobs/settle.ts';
import type { Config } from '../runtime/config.ts';
import type { Logger } from '../runtime/log.ts';
import type { Store } from '../store/store.ts';
import { type AttemptFiles, createAttemptFiles } from './files/attempt-files.ts';
import { PrivateFolder } from './files/private-folder.ts';
import { copyInputs, readInputs } from './inputs.ts';
import { PageRecorder } from './page-recorder.ts';
import { outcomeOf, runOn } from './recovery.ts';
import { persist } from './retry-until-stored.ts';
import type { TaskEvent, TaskRequest } from './run-task.ts';
import type { Lease } from './sandbox/pool.ts';
import { runTrusted } from './trusted.ts';

interface Parts {
  db: Database;
  store: Store;
  config: Config;
  workFolder: string;
  log: Logger;
}

interface Run {
  /** The upload whose files the task reads or makes. */
  uploadId: string | null;
  /** Undefined for a task that is trusted. */
  sandbox: Pick<Lease, 'run'> | undefined;
  stop: AbortSignal;
  lost: AbortController;
  /** Aborted with either of these. */
  giveUp: AbortSignal;
  onWait: () => void;
  tell: (event: TaskEvent & { kind: 'log' | 'progress' }) => Promise<void> | undefined;
}

interface Ended {
  settled: Outcome;
  peakMemoryMb: number | null;
}

/**
 * Runs the task of one attempt, from its inputs to its results in the store. Waits for a store and a database that are
 * away. Rejects with RejectedOutput for results that break the rules.
 */
export async function runAttempt(parts: Parts, job: ClaimedJob, task: UploadTask, run: Run): Promise<Ended> {
  const attempt = new Attempt(parts, job, task, run);
  try {
    return await attempt.run();
  } finally {
    await attempt.close();
  }
}

class Attempt {
  readonly #parts: Parts;
  readonly #job: ClaimedJob;
  readonly #task: UploadTask;
  readonly #run: Run;
  readonly #files: AttemptFiles;
  readonly #recorder: PageRecorder;
  /** Aborted when the recording fails. */
  readonly #broken = new AbortController();
  /** That of the process that runs the task now. */
  #folder: PrivateFolder | undefined;
  /** That of a trusted task, which has no sandbox. */
  #ownFolder: PrivateFolder | undefined;

  constructor(parts: Parts, job: ClaimedJob, task: UploadTask, run: Run) {
    this.#parts = parts;
    this.#job = job;
    this.#task = task;
    this.#run = run;
    this.#files = createAttemptFiles(parts.store, parts.workFolder);
    const { db, store, log } = parts;
    this.#recorder = new PageRecorder(
      {
        ...{ db, job, log, stop: run.stop },
        discard: (path) => store.removeFile(path),
        onLost: () => run.lost.abort(),
        onBroken: () => this.#broken.abort(),
      },
      task.internal ? ((job.payload as { pages?: PageRange[] }).pages ?? []) : [],
    );
  }

  async run(): Promise<Ended> {
    const { db, config, log } = this.#parts;
    const { uploadId, sandbox, stop, lost } = this.#run;
    const job = this.#job;
    const inputs = await this.#persist(() => readInputs(db, job, uploadId, this.#task.readsOnly));
    this.#recorder.addSettled(inputs.settledPages);
    const request = { ...requestOf(job, config), ...inputs };
    const prepare = (folder: PrivateFolder) => this.#prepare(request, folder);
    const options = {
      deadlineMs: job.timeoutSeconds * 1000,
      spentOnPage: () => Number(job.payload.spent_seconds ?? 0),
      signal: AbortSignal.any([stop, lost.signal, this.#broken.signal]),
      onEvent: (event: TaskEvent) => this.#onEvent(event),
    };
    const ran = await (sandbox === undefined
      ? runTrusted(this.#task, await prepare(await this.#openOwnFolder()), options)
      : runOn(sandbox, { ...request, prepare }, options, config.CAPACITY_MEMORY_MB));
    // A sandbox has logged its failure already.
    if (sandbox === undefined && ran.outcome.kind === 'failed') log.info(ran.outcome, 'task failed');
    await this.#recorder.flush();
    const settled = outcomeOf(ran, job, this.#task, this.#recorder.left);
    const { peakMemoryMb } = ran;
    if (settled.kind !== 'completed') return { settled, peakMemoryMb };
    const file = await this.#publishFile();
    return { settled: { ...settled, result: { ...settled.result, ...file } }, peakMemoryMb };
  }

  /** Frees what the attempt took. Never rejects. */
  async close(): Promise<void> {
    // Nothing is stored from a folder that is about to be removed.
    await this.#recorder.flush().catch(() => undefined);
    await this.#files.close();
    await this.#ownFolder?.remove().catch((error) => this.#parts.log.warn({ err: error }, 'folder not removed'));
  }

  async #openOwnFolder(): Promise<PrivateFolder> {
    this.#ownFolder = new PrivateFolder(this.#parts.workFolder);
    await this.#ownFolder.begin();
    return this.#ownFolder;
  }

  async #prepare(request: Omit<TaskRequest, 'outputFolder'>, folder: PrivateFolder): Promise<TaskRequest> {
    const local = await this.#persist(() => copyInputs(this.#files, folder, request, this.#run.giveUp));
    this.#folder = folder;
    // A run in another sandbox begins where the last one ended.
    return { ...request, ...local, settledPages: this.#recorder.settled, outputFolder: folder.output };
  }

  /** Gives a promise when what the task reports is stored too slowly, which resolves when there is room again. */
  #onEvent(event: TaskEvent): Promise<void> | undefined {
    if (event.kind === 'log' || event.kind === 'progress') return this.#run.tell(event);
    if (event.kind === 'page') {
      // Kept with the report: the task may continue in another folder before the page is stored.
      const folder = this.#madeIn();
      return this.#recorder.page(event.report, (report, storePath) =>
        this.#persist(() => this.#files.publishPage(folder, report, storePath)),
      );
    }
    if (event.kind === 'inspected') this.#recorder.inspected(event.found);
    return undefined;
  }

  async #publishFile(): Promise<StoredFile | undefined> {
    const { uploadId } = this.#run;
    if (this.#task.filePath === undefined || uploadId === null) return undefined;
    const storePath = this.#task.filePath(uploadId, randomUUID());
    return this.#persist(() => this.#files.publishFile(this.#madeIn(), storePath));
  }

  #madeIn(): PrivateFolder {
    if (this.#folder === undefined) throw new Error('the task has not begun');
    return this.#folder;
  }

  #persist<T>(work: () => Promise<T>): Promise<T> {
    return persist(this.#parts.log, this.#run.giveUp, work, this.#run.onWait);
  }
}

/** The parts of a request that come from the job and the configuration. */
function requestOf(job: ClaimedJob, config: Config) {
  return {
    type: job.type,
    payload: job.payload,
    attempt: job.attempt,
    avoid: [],
    reservation: { cpuUnits: job.cpuUnits, memoryMb: job.memoryMb },
    limits: {
      maxPages: config.MAX_PAGES,
      maxPixels: config.MAX_PIXELS,
      stepSeconds: config.PAGE_TIMEOUT_SECONDS,
      firstEngine: config.PDF_ENGINE,
    },
  } satisfies Partial<TaskRequest>;
}
