import { randomUUID, randomUUIDv7 } from 'node:crypto';
import { and, asc, eq, inArray, sql } from 'drizzle-orm';
import { auditAll } from '../../conversion/audit.ts';
import { cancelUpload } from '../../conversion/cancel-upload.ts';
import { deleteUpload } from '../../conversion/delete-upload.ts';
import { conversionDomain } from '../../conversion/domain.ts';
import type { PageOutcome } from '../../conversion/record-pages.ts';
import { retryUpload } from '../../conversion/retry-upload.ts';
import { openDatabase } from '../../db/client.ts';
import { openQueues } from '../../db/queues.ts';
import { converters, events, jobAttempts, jobs, originals, type PageRange, pages, uploads } from '../../db/schema.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { type AttemptKey, type Claimant, type ClaimedJob, claimJobs } from '../../jobs/claim.ts';
import { registerDomain } from '../../jobs/domain.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import { continueChanges, maintain } from '../../jobs/maintenance.ts';
import { retryJob } from '../../jobs/retry.ts';
import { type Outcome, settleAttempts } from '../../jobs/settle.ts';
import { type NewJob, submitJobs } from '../../jobs/submit.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';

export const SMALL = { cpuUnits: 1, memoryMb: 256 };
const AMPLE = { cpuUnits: 10_000, memoryMb: 10_000_000 };
const TABLES =
  `uploads originals pages jobs job_dependencies job_attempts pending_outcomes bulk_operations converters events
  throughput fair_shares job_types webhooks webhook_attempts webhook_hosts schedules maintenance unique_keys upload_archives
  pgboss.job`.split(/\s+/);

export type JobsFixture = Awaited<ReturnType<typeof openJobsFixture>>;

/** The job engine on a separate database, without a process that runs jobs. */
export async function openJobsFixture() {
  registerDomain(conversionDomain);
  const { url, drop } = await cloneDatabase();
  const log = createLogger('silent', {});
  const database = await openDatabase(url, { name: 'test', log });
  const { db } = database;
  const queues = await openQueues(db, { supervise: false, log });

  async function submit(...wanted: Partial<NewJob>[]): Promise<string[]> {
    const complete = wanted.map((job) => ({
      type: 'test',
      priority: 'normal' as const,
      payload: {},
      shape: SMALL,
      uploadId: null,
      original: null,
      ...job,
    }));
    return db.transaction((tx) => submitJobs(tx, queues, complete));
  }

  async function converter(heartbeatAgeSeconds = 0): Promise<{ id: string; name: string }> {
    const row = { id: randomUUID(), name: 'host-1' };
    const heartbeatAt = sql`now() - make_interval(secs => ${heartbeatAgeSeconds})`;
    await db.insert(converters).values({ ...row, ...AMPLE, heartbeatAt });
    return row;
  }

  /** Claims once, by an idle converter that knows all stored types unless `having` differs. */
  async function claimOnce(by: { id: string; name: string }, having: Partial<Claimant> = {}): Promise<ClaimedJob[]> {
    const types = (await db.selectDistinct({ type: jobs.type }).from(jobs)).map(({ type }) => type);
    return (await claimJobs(db, queues, { ...by, capacity: AMPLE, running: [], types, ...having })).started;
  }

  async function claim(by?: { id: string; name: string }): Promise<ClaimedJob[]> {
    const owner = by ?? (await converter());
    const all: ClaimedJob[] = [];
    for (;;) {
      const claimed = await claimOnce(owner);
      if (claimed.length === 0) return all;
      all.push(...claimed);
    }
  }

  return {
    url,
    db,
    queues,
    log,
    submit,
    converter,
    claimOnce,
    /** Claims all ready jobs, by a new converter by default. */
    claim,
    /**
     * Claims all small ready jobs, each by a separate converter: those of one converter settle one after the other, because
     * they update the same row of its throughput.
     */
    async claimApart(): Promise<ClaimedJob[]> {
      const all: ClaimedJob[] = [];
      for (;;) {
        const claimed = await claimOnce(await converter(), { capacity: SMALL });
        if (claimed.length === 0) return all;
        all.push(...claimed);
      }
    },
    /** Claims the only ready job. */
    async claimOne(by?: { id: string; name: string }): Promise<ClaimedJob> {
      const [job, ...others] = await claim(by);
      if (job === undefined || others.length > 0) throw new Error(`one ready job expected, not ${others.length + 1}`);
      return job;
    },
    /** An upload of PDFs, each with its convert job. */
    async upload(originalCount = 1, job: Partial<NewJob> = {}): Promise<string> {
      const id = randomUUIDv7();
      await db.insert(uploads).values({ id, priority: 'normal', dpi: 200, password: 'a secret' });
      const numbers = Array.from({ length: originalCount }, (_, index) => index + 1);
      await db.insert(originals).values(
        numbers.map((original) => ({
          uploadId: id,
          original,
          mediaType: 'application/pdf' as const,
          bytes: 1,
          sha256: '',
          path: `uploads/${id}/originals/${original}.pdf`,
        })),
      );
      await submit(...numbers.map((original) => ({ type: 'convert', uploadId: id, original, ...job })));
      return id;
    },
    /** Settles one attempt; returns true if it owned its job. */
    async settle(attempt: AttemptKey, outcome: Outcome, peakMemoryMb: number | null = null): Promise<boolean> {
      return (await settleAttempts(db, queues, [{ attempt, outcome, peakMemoryMb }])).size === 1;
    },
    /** Claims and settles ready jobs until none is left. Returns the ids in order. */
    async finishAll(outcome: Outcome = { kind: 'completed', result: {} }): Promise<string[]> {
      const ids: string[] = [];
      for (let batch = await claim(); batch.length > 0; batch = await claim()) {
        await settleAttempts(
          db,
          queues,
          batch.map((attempt) => ({ attempt, outcome, peakMemoryMb: null })),
        );
        ids.push(...batch.map(({ id }) => id));
      }
      return ids;
    },
    cancel: (id: string) => cancelJob(db, queues, id),
    retry: (id: string) => retryJob(db, queues, id),
    cancelUpload: (id: string) => cancelUpload(db, queues, id),
    retryUpload: (id: string) => retryUpload(db, queues, id),
    deleteUpload: (id: string) => deleteUpload(db, queues, id),
    /** The statuses of these jobs, in this order. */
    async statuses(...ids: string[]): Promise<(string | undefined)[]> {
      const rows = await db.select({ id: jobs.id, status: jobs.status }).from(jobs).where(inArray(jobs.id, ids));
      const byId = new Map(rows.map(({ id, status }) => [id, status]));
      return ids.map((id) => byId.get(id));
    },
    async job(id: string) {
      const [job] = await db.select().from(jobs).where(eq(jobs.id, id));
      if (job === undefined) throw new Error(`no job ${id}`);
      return job;
    },
    /** The events of a job, oldest first. */
    events: (jobId: string) =>
      db
        .select()
        .from(events)
        .where(and(eq(events.jobId, jobId), eq(events.kind, 'job')))
        .orderBy(asc(events.id)),
    attempts: (jobId: string) =>
      db.select().from(jobAttempts).where(eq(jobAttempts.jobId, jobId)).orderBy(asc(jobAttempts.attempt)),
    async findUpload(id: string) {
      const [upload] = await db.select().from(uploads).where(eq(uploads.id, id));
      if (upload === undefined) throw new Error(`no upload ${id}`);
      return upload;
    },
    pages: (uploadId: string) =>
      db.select().from(pages).where(eq(pages.uploadId, uploadId)).orderBy(asc(pages.original), asc(pages.page)),
    /** Ends every backoff, so that the jobs are ready. */
    async passBackoff(): Promise<void> {
      await db.update(jobs).set({ dueAt: sql`now()` }).where(eq(jobs.status, 'retrying'));
      await sendDueJobs(db, queues);
    },
    /** Pretends that rounds of the leader took place for so long, until so many seconds ago. */
    async watched(forSeconds: number, untilSecondsAgo = 1): Promise<void> {
      await db.execute(sql`
        insert into maintenance (last_seen_at, watched_since)
        values (now() - make_interval(secs => ${untilSecondsAgo}), now() - make_interval(secs => ${forSeconds + untilSecondsAgo}))
        on conflict (id) do update set last_seen_at = excluded.last_seen_at, watched_since = excluded.watched_since`);
    },
    /** A round of the leader after many others. */
    async maintain(): Promise<void> {
      await this.watched(3_600);
      await maintain(db, queues, log);
    },
    /** Does the background work of the leader. */
    continueChanges: () => continueChanges(db, queues, log),
    /** The findings of the audit. */
    findings: () => auditAll(db),
    /** Deletes all rows, because few rows are deleted faster than tables are truncated. */
    async empty(): Promise<void> {
      await db.transaction(async (tx) => {
        // Disables triggers and foreign keys.
        await tx.execute(sql`set local session_replication_role = replica`);
        await tx.execute(sql.raw(TABLES.map((table) => `delete from ${table}`).join(';')));
      });
    },
    /** After each test: checks the invariants, and deletes all rows. */
    async expectSound(): Promise<void> {
      expect(await auditAll(db)).toEqual([]);
      await this.empty();
    },
    async close(): Promise<void> {
      await queues.close();
      await database.close();
      await drop();
    },
  };
}

export function completedPage(page: number): PageOutcome & { status: 'completed' } {
  return {
    page,
    status: 'completed',
    path: `a/${page}.png`,
    width: 10,
    height: 10,
    bytes: 1,
    sha256: '',
    dpi: 200,
    reduced: null,
    engine: 'test',
    note: null,
  };
}

export function range(...ranges: PageRange[]) {
  return { type: 'convert_range', payload: { pages: ranges }, shape: SMALL };
}

export const COMPLETED: Outcome = { kind: 'completed', result: {} };
export const FAILED: Outcome & { kind: 'failed' } = {
  kind: 'failed',
  error: { code: 'task_failed', message: 'a temporary failure' },
  retryable: true,
};
export const FAILED_PERMANENTLY: Outcome & { kind: 'failed' } = {
  kind: 'failed',
  error: { code: 'corrupt_file', message: 'a permanent failure' },
  retryable: false,
};
