import { eq } from 'drizzle-orm';
import type { Config } from '../config.ts';
import { type Database, isOutage } from '../db/client.ts';
import { uploads } from '../db/schema.ts';
import { listOriginals, listPages } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { recordInspection, recordPage, settledPages } from '../jobs/conversion.ts';
import type { Outcome, Settlement } from '../jobs/settle.ts';
import type { Logger } from '../log.ts';
import type { Store } from '../store/store.ts';
import type { Tasks } from '../tasks/registry.ts';
import type { Task, UploadFiles } from '../tasks/task.ts';
import { createJournal } from './journal.ts';
import { persist } from './persist.ts';
import type { TaskEvent, TaskRequest } from './run-task.ts';
import type { SandboxPool } from './sandbox/pool.ts';
import { runTrusted } from './trusted.ts';

export interface ExecutorParts {
  db: Database;
  store: Store;
  tasks: Tasks;
  pool: SandboxPool;
  settle: (settlement: Settlement) => Promise<boolean>;
  config: Config;
  log: Logger;
}

const BROKEN: Outcome = {
  kind: 'failed',
  error: { code: 'internal', message: 'an unexpected error; the log has the details' },
  retryable: true,
};

/**
 * Runs one claimed job from claim to settlement. `stop` hands the job back; `lost` is aborted when the job is no longer
 * ours, by the caller or here. Rejects only when the database stays away; housekeeping then settles the job as lost.
 */
export async function executeJob(
  parts: ExecutorParts,
  job: ClaimedJob,
  { stop, lost }: { stop: AbortSignal; lost: AbortController },
): Promise<void> {
  const { db, pool, settle, config, tasks } = parts;
  const log = parts.log.child({ job: job.id, attempt: job.attempt, upload: job.uploadId });
  const task = tasks.get(job.type);
  const journal = createJournal(db, job, log);
  const broken = new AbortController();

  // What the task tells of its pages is written in order, and all of it before the job is settled.
  let written: Promise<void> = Promise.resolve();
  const onEvent = (event: TaskEvent) => {
    if (event.kind === 'log' || event.kind === 'progress') return journal.tell(event);
    written = written.then(async () => {
      const ours = await persist(log, stop, () =>
        event.kind === 'page' ? recordPage(db, job, event.outcome) : recordInspection(db, job, event.found),
      );
      if (!ours) lost.abort();
    });
    written.catch(() => broken.abort());
  };

  async function run() {
    const request: TaskRequest = {
      type: job.type,
      payload: job.payload,
      attempt: job.attempt,
      ...(await persist(log, stop, () => readInputs(parts, job, task))),
      limits: { maxPages: config.MAX_PAGES, maxPixels: config.MAX_PIXELS },
      outputRoot: parts.store.localFile(''),
    };
    const options = {
      deadlineMs: job.timeoutSeconds * 1000,
      signal: AbortSignal.any([stop, lost.signal, broken.signal]),
      onEvent,
    };
    const ended = task?.trusted ? await runTrusted(task, request, options) : await pool.run(request, options);
    await written;
    return ended;
  }

  const { outcome, peakMemoryMb } = await run().catch((error) => {
    if (isOutage(error)) throw error;
    // Such as a page that Postgres refuses: it must not take the converter, and all that runs here, with it.
    log.error({ err: error }, 'attempt broken');
    return { outcome: BROKEN, peakMemoryMb: null };
  });
  await journal.close();

  if (lost.signal.aborted) return log.info('job cancelled, or lost to another converter');
  const settled: Outcome = outcome.kind === 'aborted' ? { kind: 'returned' } : outcome;
  const ours = await persist(log, AbortSignal.timeout(30_000), () =>
    settle({ attempt: job, outcome: settled, peakMemoryMb }),
  );
  log.info(
    { outcome: settled.kind, ...('error' in settled && { error: settled.error }), peakMemoryMb, ours },
    'settled',
  );
}

/** What the task needs besides the payload. The password is read here and goes to the sandbox alone. */
async function readInputs(
  { db, store }: ExecutorParts,
  job: ClaimedJob,
  task: Task | undefined,
): Promise<Pick<TaskRequest, 'input' | 'password' | 'settledPages' | 'files'>> {
  const files: UploadFiles = { originals: [], pages: [] };
  const uploadId = task?.reads?.(job.payload);
  if (uploadId !== undefined) {
    for (const { original, path, mediaType, sha256 } of await listOriginals(db, uploadId)) {
      files.originals.push({ original, path: store.localFile(path), mediaType, sha256 });
    }
    for (const { original, page, path, sha256 } of await listPages(db, uploadId)) {
      if (path && sha256) files.pages.push({ original, page, path: store.localFile(path), sha256 });
    }
  }
  if (job.uploadId === null || job.original === null) return { input: '', password: null, settledPages: [], files };
  const [upload] = await db.select({ password: uploads.password }).from(uploads).where(eq(uploads.id, job.uploadId));
  return {
    input: store.localFile((job.payload as { path: string }).path),
    password: upload?.password ?? null,
    settledPages: job.attempt > 1 ? await settledPages(db, job.uploadId, job.original) : [],
    files,
  };
}
