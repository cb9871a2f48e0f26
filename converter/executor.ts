import { eq } from 'drizzle-orm';
import type { Config } from '../config.ts';
import { type Database, isOutage } from '../db/client.ts';
import { listPrerequisites } from '../db/jobs.ts';
import { type PageRange, uploads } from '../db/schema.ts';
import { findUpload, listOriginals, listPages } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { settledPages } from '../jobs/conversion.ts';
import { isSettledAs } from '../jobs/running.ts';
import type { Outcome, Settlement } from '../jobs/settle.ts';
import type { Logger } from '../log.ts';
import { uploadFolder } from '../store/paths.ts';
import { isAway, type Store, type Workspace } from '../store/store.ts';
import type { Tasks } from '../tasks/registry.ts';
import type { UploadFiles } from '../tasks/task.ts';
import { failSpan, inSpan, type Span, SpanKind } from '../tracing.ts';
import { createJournal } from './journal.ts';
import { jobRun, peakMemory } from './metrics.ts';
import { PageRecorder } from './page-recorder.ts';
import { persist } from './persist.ts';
import { outcomeOf, runOn } from './recovery.ts';
import type { TaskEvent, TaskRequest } from './run-task.ts';
import type { Lease } from './sandbox/pool.ts';
import type { Ran } from './sandbox/run.ts';
import { traced } from './traced.ts';
import { runTrusted } from './trusted.ts';

export interface ExecutorParts {
  db: Database;
  store: Store;
  tasks: Tasks;
  settle: (settlement: Settlement) => Promise<boolean>;
  config: Config;
  /** Of the job that is executed. */
  log: Logger;
}

/** How a job is executed. */
interface Execution {
  /** Undefined for a task that is trusted. */
  sandbox: Pick<Lease, 'run'> | undefined;
  /** Aborted, it hands the job back. */
  stop: AbortSignal;
  /** Aborted, by the caller or here, when the job is no longer ours. */
  lost: AbortController;
  /** Called while the job waits for the store. */
  onWait: () => void;
}

/** How long the end of a job that was handed back may wait for Postgres, within the time that a shutdown has. */
const SETTLE_AFTER_STOP_MS = 5_000;
/** Until a job of a type that this converter does not know may be claimed again, by one that does. */
const UNKNOWN_TYPE_SECONDS = 5;

const NOTHING_TO_READ: Outcome = {
  kind: 'failed',
  error: { code: 'unknown_upload', message: 'the upload that it reads was deleted' },
  retryable: false,
};
/** Results of prerequisites that a task is given, as JSON. */
const MAX_RESULTS_BYTES = 256 * 1024;
const RETURNED: Outcome = { kind: 'returned' };
const BROKEN: Outcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'an unexpected error; the log has the details' },
  retryable: true,
};

/**
 * Runs one claimed job from claim to settlement, as a span of its request's trace. Waits for a database that is away, and
 * rejects when its end cannot be stored, or not before this converter stops.
 */
export function executeJob(parts: ExecutorParts, job: ClaimedJob, execution: Execution): Promise<void> {
  const attributes = {
    'sheetmill.job': job.id,
    'sheetmill.attempt': job.attempt,
    ...(job.uploadId !== null && { 'sheetmill.upload': job.uploadId }),
    'sheetmill.cpu_units': job.cpuUnits,
    'sheetmill.memory_mb': job.memoryMb,
    'sheetmill.waited_seconds': job.waitedSeconds,
  };
  return inSpan(`attempt ${job.type}`, job, { kind: SpanKind.CONSUMER, attributes }, (span) =>
    execute(parts, job, execution, span),
  );
}

async function execute(
  parts: ExecutorParts,
  job: ClaimedJob,
  { sandbox, stop, lost, onWait }: Execution,
  span: Span,
): Promise<void> {
  const { db, config, tasks, log } = parts;
  const task = tasks.get(job.type);
  if (task === undefined) {
    log.info({ type: job.type }, 'handed back: this converter does not know the job type');
    await settleOnce(parts, job, stop, { kind: 'returned', afterSeconds: UNKNOWN_TYPE_SECONDS }, null);
    return;
  }
  const journal = createJournal(db, job, log);
  const observeRun = jobRun.startTimer({ type: job.type });
  const observeEnd = (outcome: Outcome['kind'] | 'lost') => {
    observeRun({ outcome });
    span.setAttribute('sheetmill.outcome', outcome);
  };
  const broken = new AbortController();
  const giveUp = AbortSignal.any([stop, lost.signal]);

  let workspace: Workspace | undefined;
  // The upload whose files it reads or makes.
  let uploadId = job.uploadId;
  const recorder = new PageRecorder(
    {
      ...{ db, job, log, stop },
      publish: (path) => persist(log, giveUp, async () => workspace?.publish(path), onWait),
      discard: (path) => parts.store.removeFile(path),
      onLost: () => lost.abort(),
      onBroken: () => broken.abort(),
    },
    (job.payload as { pages?: PageRange[] }).pages ?? [],
  );
  const onEvent = (event: TaskEvent) => {
    if (event.kind === 'log' || event.kind === 'progress') return journal.tell(event);
    if (event.kind === 'page') return recorder.page(event.outcome);
    if (event.kind === 'inspected') recorder.inspected(event.found);
    return undefined;
  };

  async function run(): Promise<{ settled: Outcome; peakMemoryMb: number | null }> {
    const files = await parts.store.workspace();
    workspace = files;
    const input = (path: string) => {
      giveUp.throwIfAborted();
      return files.input(path);
    };
    uploadId ??= task?.reads?.(job.payload) ?? null;
    const inputs = await persist(log, giveUp, () => readInputs(db, job, uploadId, task?.readsOnly, input), onWait);
    recorder.addSettled(inputs.settledPages);
    const request: TaskRequest = {
      type: job.type,
      payload: job.payload,
      attempt: job.attempt,
      ...inputs,
      // Kept up to date: a run in another sandbox begins where the last one ended.
      settledPages: recorder.settled,
      avoid: [],
      reservation: { cpuUnits: job.cpuUnits, memoryMb: job.memoryMb },
      limits: {
        maxPages: config.MAX_PAGES,
        maxPixels: config.MAX_PIXELS,
        stepSeconds: config.PAGE_TIMEOUT_SECONDS,
        firstEngine: config.PDF_ENGINE,
      },
      outputRoot: files.output,
    };
    const options = {
      deadlineMs: job.timeoutSeconds * 1000,
      spentOnPage: () => Number(job.payload.spent_seconds ?? 0),
      signal: AbortSignal.any([stop, lost.signal, broken.signal]),
      onEvent,
    };
    const ran: Ran =
      sandbox === undefined && task !== undefined
        ? await runTrusted(task, request, options)
        : await runOn(traced(sandbox as Lease, span), request, options, config.CAPACITY_MEMORY_MB);
    // Of what fails in a sandbox, each run has a line of its own.
    if (sandbox === undefined && ran.outcome.kind === 'failed') log.info(ran.outcome, 'task failed');
    await recorder.flush();
    if (ran.outcome.kind === 'completed') await persist(log, giveUp, () => files.publishAll(), onWait);
    return { settled: outcomeOf(ran, job, task, recorder.left), peakMemoryMb: ran.peakMemoryMb };
  }

  const { settled, peakMemoryMb } = await run()
    .catch((error) => {
      // The job was to be handed back, or was lost, while files were fetched or the store or the database was away.
      if (isAway(error) || isOutage(error) || error === giveUp.reason) return { settled: RETURNED, peakMemoryMb: null };
      // Such as a page that Postgres refuses: it must not take the converter, and all that runs here, with it.
      log.error({ err: error }, 'attempt broken');
      return { settled: BROKEN, peakMemoryMb: null };
    })
    .finally(() => workspace?.close());
  await journal.close();

  // Its jobs of its own go with an upload; what else reads it ends here.
  const deleted = (lost.signal.aborted || job.uploadId === null) && (await removeIfDeleted(parts, uploadId));
  if (lost.signal.aborted) {
    observeEnd('lost');
    return log.info('job cancelled, deleted, or lost to another converter');
  }
  const outcome = deleted ? NOTHING_TO_READ : settled;
  const ours = await settleOnce(parts, job, stop, outcome, peakMemoryMb);
  if (!ours) await removeIfDeleted(parts, uploadId);
  observeEnd(ours ? outcome.kind : 'lost');
  if (outcome.kind === 'failed') failSpan(span, outcome.error.message);
  if (peakMemoryMb !== null) peakMemory.observe({ reserved_mb: job.memoryMb }, peakMemoryMb);
  log.info(
    { outcome: outcome.kind, ...('error' in outcome && { error: outcome.error }), peakMemoryMb, ours },
    'settled',
  );
}

/**
 * Settles an attempt, however often it takes to reach the database: one whose answer was lost is settled. Gives whether
 * the attempt still owned its job.
 */
async function settleOnce(
  { db, settle, log }: ExecutorParts,
  job: ClaimedJob,
  stop: AbortSignal,
  outcome: Outcome,
  peakMemoryMb: number | null,
): Promise<boolean> {
  const settlement = { attempt: job, outcome, peakMemoryMb };
  const giveUp = new AbortController();
  const onStop = () => setTimeout(() => giveUp.abort(), SETTLE_AFTER_STOP_MS).unref();
  if (stop.aborted) onStop();
  stop.addEventListener('abort', onStop, { once: true });
  let isRepeated = false;
  try {
    return await persist(
      log,
      giveUp.signal,
      async () => (await settle(settlement)) || (isRepeated && (await isSettledAs(db, settlement))),
      () => {
        isRepeated = true;
      },
    );
  } finally {
    stop.removeEventListener('abort', onStop);
  }
}

/** What an attempt has written since its upload was deleted goes as well. Gives whether it was deleted. */
async function removeIfDeleted({ db, store, log }: ExecutorParts, uploadId: string | null): Promise<boolean> {
  if (uploadId === null) return false;
  try {
    if ((await findUpload(db, uploadId)) !== undefined) return false;
    await store.removeFolder(uploadFolder(uploadId));
    return true;
  } catch (error) {
    log.warn({ err: error, upload: uploadId }, 'files of a deleted upload left to the sweep');
    return false;
  }
}

async function findPassword(db: Database, uploadId: string): Promise<string | null> {
  const [upload] = await db.select({ password: uploads.password }).from(uploads).where(eq(uploads.id, uploadId));
  return upload?.password ?? null;
}

/** What the task needs besides the payload. The password is read here and goes to the sandbox alone. */
async function readInputs(
  db: Database,
  job: ClaimedJob,
  uploadId: string | null,
  only: keyof UploadFiles | undefined,
  input: Workspace['input'],
): Promise<Pick<TaskRequest, 'input' | 'password' | 'settledPages' | 'files' | 'dependencies'>> {
  const files: UploadFiles = { originals: [], pages: [] };
  if (uploadId !== job.uploadId && uploadId !== null) {
    const wanted = (kind: keyof UploadFiles) => only === undefined || only === kind;
    for (const { original, path, mediaType, sha256 } of wanted('originals') ? await listOriginals(db, uploadId) : []) {
      files.originals.push({ original, path: await input(path), mediaType, sha256 });
    }
    for (const { original, page, path, sha256 } of wanted('pages') ? await listPages(db, uploadId) : []) {
      if (path && sha256) files.pages.push({ original, page, path: await input(path), sha256 });
    }
  }
  if (job.uploadId === null || job.original === null) {
    const dependencies = job.hasDependencies ? await listPrerequisites(db, job.id, MAX_RESULTS_BYTES) : [];
    return { input: '', password: null, settledPages: [], files, dependencies };
  }
  const { path, media_type } = job.payload as { path: string; media_type?: string };
  return {
    input: await input(path),
    // An image has none.
    password: media_type?.startsWith('image/') ? null : await findPassword(db, job.uploadId),
    settledPages: job.attempt > 1 ? await settledPages(db, job.uploadId, job.original) : [],
    files,
    // Conversions depend on no other job.
    dependencies: [],
  };
}
