import { randomUUID, randomUUIDv7 } from 'node:crypto';
import { and, asc, eq, inArray, sql } from 'drizzle-orm';
import { auditAll } from '../../conversion/audit.ts';
import { cancelUpload } from '../../conversion/cancel-upload.ts';
import { deleteUpload } from '../../conversion/delete-upload.ts';
import { conversionDomain } from '../../conversion/domain.ts';
import type { PageOutcome } from '../../conversion/record-pages.ts';
import { retryUpload } from '../../conversion/retry-upload.ts';
import { type Database, openDatabase } from '../../db/client.ts';
import { openQueues, type Queues } from '../../db/queues.ts';
import { converters, events, jobAttempts, jobs, originals, type PageRange, pages, uploads } from '../../db/schema.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { type AttemptKey, type Claimant, type ClaimedJob, claimJobs } from '../../jobs/claim.ts';
import { registerDomain } from '../../jobs/domain.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import { continueChanges, maintain } from '../../jobs/maintenance.ts';
import { retryJob } from '../../jobs/retry.ts';
import { type Outcome, settleAttempts } from '../../jobs/settle.ts';
import { type NewJob, submitJobs } from '../../jobs/submit.ts';
import { createLogger, type Logger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';

export const SMALL = { cpuUnits: 1, memoryMb: 256 };
const AMPLE = { cpuUnits: 10_000, memoryMb: 10_000_000 };
const TABLES =
  `uploads originals pages jobs job_dependencies job_attempts pending_outcomes bulk_operations converters events
  throughput fair_shares job_types webhooks webhook_attempts webhook_hosts schedules maintenance unique_keys upload_archives
  pgboss.job`.split(/\s+/);

interface ConverterKey {
  id: string;
  name: string;
}

/** Opens the job engine on a separate database, without a process that runs jobs. */
export async function openJobsFixture(): Promise<JobsFixture> {
  registerDomain(conversionDomain);
  const { url, drop } = await cloneDatabase();
  const log = createLogger('silent', {});
  const { db, close } = await openDatabase(url, { name: 'test', log });
  const queues = await openQueues(db, { supervise: false, log });
  return new JobsFixture({ url, db, queues, log }, async () => {
    await queues.close();
    await close();
    await drop();
  });
}

export class JobsFixture {
  readonly url: string;
  readonly db: Database;
  readonly queues: Queues;
  readonly log: Logger;
  readonly close: () => Promise<void>;

  constructor(
    { url, db, queues, log }: Pick<JobsFixture, 'url' | 'db' | 'queues' | 'log'>,
    close: () => Promise<void>,
  ) {
    this.url = url;
    this.db = db;
    this.queues = queues;
    this.log = log;
    this.close = close;
  }

  async submit(...wanted: Partial<NewJob>[]): Promise<string[]> {
    const complete = wanted.map((job) => ({
      type: 'test',
      priority: 'normal' as const,
      payload: {},
      shape: SMALL,
      uploadId: null,
      original: null,
      ...job,
    }));
    return this.db.transaction((tx) => submitJobs(tx, this.queues, complete));
  }

  async converter(heartbeatAgeSeconds = 0): Promise<ConverterKey> {
    const row = { id: randomUUID(), name: 'host-1' };
    const heartbeatAt = sql`now() - make_interval(secs => ${heartbeatAgeSeconds})`;
    await this.db.insert(converters).values({ ...row, ...AMPLE, heartbeatAt });
    return row;
  }

  /** Claims once, by an idle converter that knows all stored types unless `having` differs. */
  async claimOnce(by: ConverterKey, having: Partial<Claimant> = {}): Promise<ClaimedJob[]> {
    const types = (await this.db.selectDistinct({ type: jobs.type }).from(jobs)).map(({ type }) => type);
    const claimant = { ...by, capacity: AMPLE, running: [], types, ...having };
    return (await claimJobs(this.db, this.queues, claimant)).started;
  }

  /** Claims all ready jobs, by a new converter by default. */
  async claim(by?: ConverterKey): Promise<ClaimedJob[]> {
    const owner = by ?? (await this.converter());
    const all: ClaimedJob[] = [];
    for (;;) {
      const claimed = await this.claimOnce(owner);
      if (claimed.length === 0) return all;
      all.push(...claimed);
    }
  }

  /**
   * Claims all small ready jobs, each by a separate converter: those of one converter settle one after the other, because
   * they update the same row of its throughput.
   */
  async claimApart(): Promise<ClaimedJob[]> {
    const all: ClaimedJob[] = [];
    for (;;) {
      const claimed = await this.claimOnce(await this.converter(), { capacity: SMALL });
      if (claimed.length === 0) return all;
      all.push(...claimed);
    }
  }

  /** Claims the only ready job. */
  async claimOne(by?: { id: string; name: string }): Promise<ClaimedJob> {
    const [job, ...others] = await this.claim(by);
    if (job === undefined || others.length > 0) throw new Error(`one ready job expected, not ${others.length + 1}`);
    return job;
  }

  /** An upload of PDFs, each with its convert job. */
  async upload(originalCount = 1, job: Partial<NewJob> = {}): Promise<string> {
    const id = randomUUIDv7();
    await this.db.insert(uploads).values({ id, priority: 'normal', dpi: 200, password: 'a secret' });
    const numbers = Array.from({ length: originalCount }, (_, index) => index + 1);
    await this.db.insert(originals).values(
      numbers.map((original) => ({
        uploadId: id,
        original,
        mediaType: 'application/pdf' as const,
        bytes: 1,
        sha256: '',
        path: `uploads/${id}/originals/${original}.pdf`,
      })),
    );
    await this.submit(...numbers.map((original) => ({ type: 'convert', uploadId: id, original, ...job })));
    return id;
  }

  /** Settles one attempt; returns true if it owned its job. */
  async settle(attempt: AttemptKey, outcome: Outcome, peakMemoryMb: number | null = null): Promise<boolean> {
    return (await settleAttempts(this.db, this.queues, [{ attempt, outcome, peakMemoryMb }])).size === 1;
  }

  /** Claims and settles ready jobs until none is left. Returns the ids in order. */
  async finishAll(outcome: Outcome = { kind: 'completed', result: {} }): Promise<string[]> {
    const ids: string[] = [];
    for (let batch = await this.claim(); batch.length > 0; batch = await this.claim()) {
      await settleAttempts(
        this.db,
        this.queues,
        batch.map((attempt) => ({ attempt, outcome, peakMemoryMb: null })),
      );
      ids.push(...batch.map(({ id }) => id));
    }
    return ids;
  }

  cancel(id: string) {
    return cancelJob(this.db, this.queues, id);
  }

  retry(id: string) {
    return retryJob(this.db, this.queues, id);
  }

  cancelUpload(id: string) {
    return cancelUpload(this.db, this.queues, id);
  }

  retryUpload(id: string) {
    return retryUpload(this.db, this.queues, id);
  }

  deleteUpload(id: string) {
    return deleteUpload(this.db, this.queues, id);
  }

  /** The statuses of these jobs, in this order. */
  async statuses(...ids: string[]): Promise<(string | undefined)[]> {
    const rows = await this.db.select({ id: jobs.id, status: jobs.status }).from(jobs).where(inArray(jobs.id, ids));
    const byId = new Map(rows.map(({ id, status }) => [id, status]));
    return ids.map((id) => byId.get(id));
  }

  async job(id: string) {
    const [job] = await this.db.select().from(jobs).where(eq(jobs.id, id));
    if (job === undefined) throw new Error(`no job ${id}`);
    return job;
  }

  /** The events of a job, oldest first. */
  events(jobId: string) {
    return this.db
      .select()
      .from(events)
      .where(and(eq(events.jobId, jobId), eq(events.kind, 'job')))
      .orderBy(asc(events.id));
  }

  attempts(jobId: string) {
    return this.db.select().from(jobAttempts).where(eq(jobAttempts.jobId, jobId)).orderBy(asc(jobAttempts.attempt));
  }

  async findUpload(id: string) {
    const [upload] = await this.db.select().from(uploads).where(eq(uploads.id, id));
    if (upload === undefined) throw new Error(`no upload ${id}`);
    return upload;
  }

  pages(uploadId: string) {
    return this.db
      .select()
      .from(pages)
      .where(eq(pages.uploadId, uploadId))
      .orderBy(asc(pages.original), asc(pages.page));
  }

  /** Ends every backoff, so that the jobs are ready. */
  async passBackoff(): Promise<void> {
    await this.db.update(jobs).set({ dueAt: sql`now()` }).where(eq(jobs.status, 'retrying'));
    await sendDueJobs(this.db, this.queues);
  }

  /** Pretends that rounds of the leader took place for so long, until so many seconds ago. */
  async watched(forSeconds: number, untilSecondsAgo = 1): Promise<void> {
    await this.db.execute(sql`
      insert into maintenance (last_seen_at, watched_since)
      values (now() - make_interval(secs => ${untilSecondsAgo}), now() - make_interval(secs => ${forSeconds + untilSecondsAgo}))
      on conflict (id) do update set last_seen_at = excluded.last_seen_at, watched_since = excluded.watched_since`);
  }

  /** A round of the leader after many others. */
  async maintain(): Promise<void> {
    await this.watched(3_600);
    await maintain(this.db, this.queues, this.log);
  }

  /** Does the background work of the leader. */
  continueChanges() {
    return continueChanges(this.db, this.queues, this.log);
  }

  /** The findings of the audit. */
  findings() {
    return auditAll(this.db);
  }

  /** Deletes all rows, because few rows are deleted faster than tables are truncated. */
  async empty(): Promise<void> {
    await this.db.transaction(async (tx) => {
      // Disables triggers and foreign keys.
      await tx.execute(sql`set local session_replication_role = replica`);
      await tx.execute(sql.raw(TABLES.map((table) => `delete from ${table}`).join(';')));
    });
  }

  /** After each test: checks the invariants, and deletes all rows. */
  async expectSound(): Promise<void> {
    expect(await auditAll(this.db)).toEqual([]);
    await this.empty();
  }
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
