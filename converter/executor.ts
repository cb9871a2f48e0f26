import type { Tasks } from '../conversion/registry.ts';
import type { UploadTaskDefinition } from '../conversion/upload-task.ts';
import type { Database } from '../db/client.ts';
import { isOutage } from '../db/postgres-errors.ts';
import { findUpload } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { isSettledAs, type Outcome, type Settlement } from '../jobs/settle.ts';
import type { Config } from '../runtime/config.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/log.ts';
import { failSpan, inSpan, type Span, SpanKind } from '../runtime/tracing.ts';
import { uploadFolder } from '../store/paths.ts';
import { isAway, type Store } from '../store/store.ts';
import { RejectedOutput } from './files/rejected-output.ts';
import { LogRecorder } from './log-recorder.ts';
import { jobRun, peakMemory } from './metrics.ts';
import { persist } from './retry-until-stored.ts';
import { runAttempt } from './run-attempt.ts';
import type { TaskRunner } from './task-runner.ts';
import { traceRuns } from './trace-runs.ts';

export interface ExecutorParts {
  db: Database;
  store: Store;
  tasks: Tasks;
  settle: (settlement: Settlement) => Promise<boolean>;
  config: Config;
  /** The folder for the files of attempts. */
  workFolder: string;
  /** The log of the job. */
  log: Logger;
}

interface Execution {
  runner: Pick<TaskRunner, 'run' | 'distrust'>;
  /** Aborting it returns the job to the queue. */
  stop: AbortSignal;
  /** Aborted, by the caller or here, when the job no longer belongs to this attempt. */
  lost: AbortController;
  /** Called while the job waits for the store or the database. */
  onWait: () => void;
}

/** How a task ended, before that is stored. */
interface TaskEnd {
  outcome: Outcome;
  peakMemoryMb: number | null;
  /** The upload whose files the task reads or makes. */
  uploadId: string | null;
}

/** The time to settle a job after the converter was stopped, within the time that a shutdown has. */
const SETTLE_AFTER_STOP_MS = 5_000;
/** The delay before a converter that knows the job type may claim the job. */
const UNKNOWN_TYPE_SECONDS = 5;

const UPLOAD_DELETED: Outcome = {
  kind: 'failed',
  error: { code: 'unknown_upload', message: 'the upload was deleted' },
  retryable: false,
};
const RETURNED: Outcome = { kind: 'returned' };
const INTERNAL_ERROR: Outcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'an unexpected error; the log has the details' },
  retryable: true,
};

/**
 * Runs one claimed job and settles it, as a span of its request's trace. Waits while the database is unavailable. Rejects
 * when the outcome cannot be stored, or not before this converter stops.
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
  return inSpan(`attempt ${job.type}`, job, { kind: SpanKind.CONSUMER, attributes }, async (span) => {
    const task = parts.tasks.get(job.type);
    if (task !== undefined) return executeTask(parts, job, task, execution, span);
    parts.log.info({ type: job.type }, 'job returned to the queue: unknown job type');
    const outcome: Outcome = { kind: 'returned', afterSeconds: UNKNOWN_TYPE_SECONDS };
    await settleOnce(parts, { attempt: job, outcome, peakMemoryMb: null }, execution.stop);
  });
}

async function executeTask(
  parts: ExecutorParts,
  job: ClaimedJob,
  task: UploadTaskDefinition,
  execution: Execution,
  span: Span,
): Promise<void> {
  const observeRun = jobRun.startTimer({ type: job.type });
  const observeEnd = (outcome: Outcome['kind'] | 'lost') => {
    observeRun({ outcome });
    span.setAttribute('sheetmill.outcome', outcome);
  };
  const end = await runTaskOfJob(parts, job, task, execution, span);
  const isLost = execution.lost.signal.aborted;
  // Deleting an upload deletes its own jobs; other jobs that read it fail here.
  const isDeleted = (isLost || job.uploadId === null) && (await removeIfDeleted(parts, end.uploadId));
  if (isLost) {
    observeEnd('lost');
    return parts.log.info('job was cancelled, deleted, or lost to another converter');
  }
  const { peakMemoryMb } = end;
  const outcome = isDeleted ? UPLOAD_DELETED : end.outcome;
  const isOwned = await settleOnce(parts, { attempt: job, outcome, peakMemoryMb }, execution.stop);
  if (!isOwned) await removeIfDeleted(parts, end.uploadId);
  observeEnd(isOwned ? outcome.kind : 'lost');
  if (outcome.kind === 'failed') failSpan(span, outcome.error.message);
  if (peakMemoryMb !== null) peakMemory.observe({ reserved_mb: job.memoryMb }, peakMemoryMb);
  const error = 'error' in outcome && { error: outcome.error };
  parts.log.info({ outcome: outcome.kind, ...error, peakMemoryMb, ours: isOwned }, 'attempt settled');
}

/** Runs the task and stores what it reports. Never rejects: errors become outcomes. */
async function runTaskOfJob(
  parts: ExecutorParts,
  job: ClaimedJob,
  task: UploadTaskDefinition,
  { runner, stop, lost, onWait }: Execution,
  span: Span,
): Promise<TaskEnd> {
  const logs = new LogRecorder(parts.db, job, parts.log);
  const giveUp = AbortSignal.any([stop, lost.signal]);
  let { uploadId } = job;
  try {
    uploadId ??= task.reads?.(job.payload) ?? null;
    const { outcome, peakMemoryMb } = await runAttempt(parts, job, task, {
      ...{ uploadId, stop, lost, giveUp, onWait },
      runner: task.trusted ? runner : traceRuns(runner, span),
      record: (event) => logs.record(event),
    });
    return { outcome, peakMemoryMb, uploadId };
  } catch (error) {
    if (error instanceof RejectedOutput) runner.distrust();
    return { outcome: outcomeOfError(error, task, giveUp, parts.log), peakMemoryMb: null, uploadId };
  } finally {
    await logs.close();
  }
}

function outcomeOfError(error: unknown, task: UploadTaskDefinition, giveUp: AbortSignal, log: Logger): Outcome {
  // The converter stopped, or the job was lost, during an outage or while files were copied.
  if (isAway(error) || isOutage(error) || error === giveUp.reason) return RETURNED;
  if (error instanceof RejectedOutput) {
    log.warn({ code: 'rejected_output', reason: error.message }, 'sandbox output rejected');
    return rejectedOutcome(task, error);
  }
  // Such as a page that Postgres refuses: the other jobs of this converter must continue.
  log.error({ err: error }, 'attempt failed unexpectedly');
  return INTERNAL_ERROR;
}

/** Invalid output fails the job at once: a retry would make the same output. */
function rejectedOutcome(task: UploadTaskDefinition, { message }: RejectedOutput): Outcome {
  const error: PublicError = task.internal
    ? { code: 'corrupt_file', message: 'the file did not convert to valid pages' }
    : { code: 'task_failed', message: `output rejected: ${message}` };
  return { kind: 'failed', error, retryable: false };
}

/**
 * Settles an attempt, and retries while the database is unavailable. Returns whether the attempt still owned its job: a
 * settlement whose answer was lost counts.
 */
async function settleOnce(
  { db, settle, log }: ExecutorParts,
  settlement: Settlement,
  stop: AbortSignal,
): Promise<boolean> {
  const giveUp = new AbortController();
  const onStop = () => setTimeout(() => giveUp.abort(), SETTLE_AFTER_STOP_MS).unref();
  if (stop.aborted) onStop();
  stop.addEventListener('abort', onStop, { once: true });
  let isRetry = false;
  try {
    return await persist(
      log,
      giveUp.signal,
      async () => (await settle(settlement)) || (isRetry && (await isSettledAs(db, settlement))),
      () => {
        isRetry = true;
      },
    );
  } finally {
    stop.removeEventListener('abort', onStop);
  }
}

/** Removes the files that an attempt wrote after its upload was deleted. Returns whether it was deleted. */
async function removeIfDeleted({ db, store, log }: ExecutorParts, uploadId: string | null): Promise<boolean> {
  if (uploadId === null) return false;
  try {
    if ((await findUpload(db, uploadId)) !== undefined) return false;
    await store.removeFolder(uploadFolder(uploadId));
    return true;
  } catch (error) {
    log.warn(
      { err: error, upload: uploadId },
      'files of a deleted upload not removed; the store sweep will remove them',
    );
    return false;
  }
}
