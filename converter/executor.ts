import type { Tasks } from '../conversion/registry.ts';
import type { UploadTask } from '../conversion/upload-task.ts';
import { type Database, isOutage } from '../db/client.ts';
import { findUpload } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { isSettledAs, type Outcome, type Settlement } from '../jobs/settle.ts';
import type { Config } from '../runtime/config.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { failSpan, inSpan, type Span, SpanKind } from '../runtime/tracing.ts';
import { uploadFolder } from '../store/paths.ts';
import { isAway, type Store } from '../store/store.ts';
import { runAttempt } from './attempt.ts';
import { RejectedOutput } from './files/rejected-output.ts';
import { createJournal } from './journal.ts';
import { jobRun, peakMemory } from './metrics.ts';
import { persist } from './retry-until-stored.ts';
import type { Lease } from './sandbox/pool.ts';
import { traced } from './traced.ts';

export interface ExecutorParts {
  db: Database;
  store: Store;
  tasks: Tasks;
  settle: (settlement: Settlement) => Promise<boolean>;
  config: Config;
  /** The folder for the files of attempts. */
  workFolder: string;
  /** Of the job that is executed. */
  log: Logger;
}

/** How a job is executed. */
interface Execution {
  /** Undefined for a task that is trusted. */
  sandbox: Pick<Lease, 'run' | 'distrust'> | undefined;
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

async function execute(parts: ExecutorParts, job: ClaimedJob, execution: Execution, span: Span): Promise<void> {
  const task = parts.tasks.get(job.type);
  if (task !== undefined) return executeTask(parts, job, task, execution, span);
  parts.log.info({ type: job.type }, 'handed back: this converter does not know the job type');
  await settleOnce(parts, job, execution.stop, { kind: 'returned', afterSeconds: UNKNOWN_TYPE_SECONDS }, null);
}

async function executeTask(
  parts: ExecutorParts,
  job: ClaimedJob,
  task: UploadTask,
  { sandbox, stop, lost, onWait }: Execution,
  span: Span,
): Promise<void> {
  const { db, log } = parts;
  const journal = createJournal(db, job, log);
  const observeRun = jobRun.startTimer({ type: job.type });
  const observeEnd = (outcome: Outcome['kind'] | 'lost') => {
    observeRun({ outcome });
    span.setAttribute('sheetmill.outcome', outcome);
  };
  const giveUp = AbortSignal.any([stop, lost.signal]);
  // The upload whose files it reads or makes.
  let uploadId = job.uploadId;
  const run = async () => {
    uploadId ??= task.reads?.(job.payload) ?? null;
    const options = { uploadId, sandbox: sandbox && traced(sandbox, span), stop, lost, giveUp, onWait };
    return runAttempt(parts, job, task, { ...options, tell: journal.tell });
  };
  const { settled, peakMemoryMb } = await run().catch((error) => {
    // The job was to be handed back, or was lost, while files were fetched or the store or the database was away.
    if (isAway(error) || isOutage(error) || error === giveUp.reason) return { settled: RETURNED, peakMemoryMb: null };
    if (error instanceof RejectedOutput) {
      log.warn({ code: 'rejected_output', reason: error.message }, 'result of the sandbox rejected');
      sandbox?.distrust();
      return { settled: rejected(task, error), peakMemoryMb: null };
    }
    // Such as a page that Postgres refuses: it must not take the converter, and all that runs here, with it.
    log.error({ err: error }, 'attempt broken');
    return { settled: BROKEN, peakMemoryMb: null };
  });
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

/** How a job ends whose sandbox gave what it must not give: it would do so again. */
function rejected(task: UploadTask, { message }: RejectedOutput): Outcome {
  const error: PublicError = task.internal
    ? { code: 'corrupt_file', message: 'the file did not convert to valid pages' }
    : { code: 'task_failed', message: `its result was not accepted: ${message}` };
  return { kind: 'failed', error, retryable: false };
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
