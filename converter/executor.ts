import { eq } from 'drizzle-orm';
import type { Config } from '../config.ts';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { uploads } from '../db/schema.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { recordInspection, recordPage, settledPages } from '../jobs/conversion.ts';
import { type Outcome, settle } from '../jobs/settle.ts';
import type { Logger } from '../log.ts';
import type { Store } from '../store/store.ts';
import { persist } from './persist.ts';
import type { SandboxPool } from './sandbox/pool.ts';
import type { SandboxEvent } from './sandbox/protocol.ts';

export interface ExecutorParts {
  db: Database;
  queues: Queues;
  store: Store;
  pool: SandboxPool;
  config: Config;
  log: Logger;
}

/**
 * Runs one claimed job from claim to settlement. `stop` hands the job back. Rejects only when the database stays away
 * until `stop`; housekeeping then settles the job as lost.
 */
export async function executeJob(parts: ExecutorParts, job: ClaimedJob, stop: AbortSignal): Promise<void> {
  const { db, queues, store, pool, config } = parts;
  const log = parts.log.child({ job: job.id, attempt: job.attempt, upload: job.uploadId });
  const lostJob = new AbortController();
  const abort = AbortSignal.any([stop, lostJob.signal]);

  // What the task tells is written in order, and all of it before the job is settled.
  let written: Promise<void> = Promise.resolve();
  const onEvent = (event: SandboxEvent) => {
    written = written.then(async () => {
      const ours = await persist(log, stop, () =>
        event.kind === 'page' ? recordPage(db, job, event.outcome) : recordInspection(db, job, event.found),
      );
      if (!ours) lostJob.abort();
    });
    written.catch(() => lostJob.abort());
  };

  const given = await persist(log, stop, () => readInputs(db, job));
  const payload = job.payload as { path: string };
  const { outcome, peakMemoryMb } = await pool.run(
    {
      type: job.type,
      payload: job.payload,
      attempt: job.attempt,
      input: store.localFile(payload.path),
      ...given,
      limits: { maxPages: config.MAX_PAGES, maxPixels: config.MAX_PIXELS },
      outputRoot: store.localFile(''),
    },
    { deadlineMs: job.timeoutSeconds * 1000, signal: abort, onEvent },
  );
  await written;

  if (outcome.kind === 'killed' && lostJob.signal.aborted) return log.warn('job lost to another converter');
  const settled: Outcome = outcome.kind === 'killed' ? { kind: 'returned' } : outcome;
  const ours = await persist(log, AbortSignal.timeout(30_000), () => settle(db, queues, job, settled, peakMemoryMb));
  log.info(
    { outcome: settled.kind, ...('error' in settled && { error: settled.error }), peakMemoryMb, ours },
    'settled',
  );
}

/** What the sandbox needs besides the payload. The password is read here and goes to the sandbox alone. */
async function readInputs(db: Database, job: ClaimedJob): Promise<{ password: string | null; settledPages: number[] }> {
  if (job.uploadId === null || job.original === null) return { password: null, settledPages: [] };
  const [upload] = await db.select({ password: uploads.password }).from(uploads).where(eq(uploads.id, job.uploadId));
  return {
    password: upload?.password ?? null,
    settledPages: job.attempt > 1 ? await settledPages(db, job.uploadId, job.original) : [],
  };
}
