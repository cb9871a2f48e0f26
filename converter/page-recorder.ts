import { pagesIn } from '../conversion/page-selection.ts';
import { type Inspection, type PageOutcome, type PageReport, recordPages } from '../conversion/record-pages.ts';
import type { Database } from '../db/client.ts';
import type { PageRange } from '../db/schema.ts';
import { listPagePaths } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import type { Logger } from '../runtime/log.ts';
import { WakeFlag } from '../runtime/wake-flag.ts';
import { pagePath } from '../store/paths.ts';
import { RejectedOutput } from './files/rejected-output.ts';
import { pages as pagesMetric } from './metrics.ts';
import { persist } from './retry-until-stored.ts';

/** Pages that finish within this time are recorded in one transaction. */
const BATCH_MS = 200;
/** The time for which an inspection waits for the first page, to be recorded with it. */
const INSPECTION_MS = 500;
/** A task that makes pages faster than they are recorded waits above this number. */
const MAX_WAITING_PAGES = 200;

type Publish = (
  report: PageReport & { status: 'completed' },
  storePath: string,
) => Promise<PageOutcome & { status: 'completed' }>;

interface Parts {
  db: Database;
  job: ClaimedJob;
  log: Logger;
  /** Aborting it ends retries during an outage of the database. */
  stop: AbortSignal;
  /** Removes the file of a page that is not recorded. */
  discard: (storePath: string) => Promise<unknown>;
  /** Called when the job no longer belongs to this attempt. */
  onLost: () => void;
  /** Called when pages cannot be recorded, and a retry would not help. */
  onBroken: () => void;
}

/**
 * Records the inspection and the pages of a running conversion, in order: the first page at once, later pages in batches.
 * `flush` resolves when everything is recorded, and rejects with the error that ended the recording.
 */
export class PageRecorder {
  readonly #parts: Parts;
  readonly #settled = new Set<number>();
  #selected: ReadonlySet<number>;
  /** An inspection that is not recorded yet. */
  #found: Inspection | undefined;
  /** Pages that are not recorded yet. */
  #waiting: { report: PageReport; publish: Publish }[] = [];
  #written: Promise<void> = Promise.resolve();
  #isWriting = false;
  #isEnding = false;
  /** Set by each page, and by `flush`. */
  readonly #pageArrived = new WakeFlag();
  readonly #flushNow = new WakeFlag();

  constructor(parts: Parts, selected: PageRange[]) {
    this.#parts = parts;
    this.#selected = new Set(pagesIn(selected));
  }

  /** Pages that have an outcome, in this attempt or before. */
  get settled(): number[] {
    return [...this.#settled];
  }

  /** Selected pages without an outcome. */
  get left(): number[] {
    return [...this.#selected].filter((page) => !this.#settled.has(page));
  }

  /** Adds pages that an earlier attempt settled. */
  addSettled(pages: readonly number[]): void {
    for (const page of pages) this.#settled.add(page);
  }

  inspected(found: Inspection): void {
    this.#selected = new Set(pagesIn(found.selected));
    this.#found = found;
    this.#write();
  }

  /**
   * `publish` moves the PNG of the page into the store. Returns a promise when too many pages wait; it resolves when they
   * are recorded, or the recording failed.
   */
  page(report: PageReport, publish: Publish): Promise<void> | undefined {
    this.#settled.add(report.page);
    this.#waiting.push({ report, publish });
    this.#pageArrived.set();
    this.#write();
    // `flush` reports the error.
    return this.#waiting.length > MAX_WAITING_PAGES ? this.#written.catch(() => undefined) : undefined;
  }

  flush(): Promise<void> {
    this.#isEnding = true;
    this.#pageArrived.set();
    this.#flushNow.set();
    return this.#written;
  }

  #write(): void {
    if (this.#isWriting) return;
    this.#isWriting = true;
    this.#written = this.#written.then(() => this.#writeBatches());
    this.#written.catch(() => this.#parts.onBroken());
  }

  async #writeBatches(): Promise<void> {
    while (this.#waiting.length > 0 || this.#found !== undefined) {
      if (this.#waiting.length === 0 && !this.#isEnding) await this.#pageArrived.wait(INSPECTION_MS);
      const batch = this.#waiting.splice(0);
      const found = this.#found;
      this.#found = undefined;
      const outcomes = await this.#publish(batch);
      if (await this.#isOwned((db, job) => recordPages(db, job, outcomes, found))) countPages(outcomes);
      else await this.#discard(outcomes);
      if (!this.#isEnding && batch.length > 0) await this.#flushNow.wait(BATCH_MS);
    }
    this.#isWriting = false;
  }

  /** Removes pages that are not recorded. The write may have succeeded, and its answer been lost, so the rows are read. */
  async #discard(outcomes: PageOutcome[]): Promise<void> {
    const { db, job, log, discard } = this.#parts;
    try {
      const recorded = new Set(await listPagePaths(db, job.uploadId === null ? [] : [job.uploadId]));
      for (const outcome of outcomes)
        if (outcome.status === 'completed' && !recorded.has(outcome.path)) await discard(outcome.path);
    } catch (error) {
      log.warn({ err: error }, 'pages of a lost attempt not removed; the store sweep will remove them');
    }
  }

  /** The path of a page comes from the job: a sandbox cannot choose it. */
  async #publish(batch: { report: PageReport; publish: Publish }[]): Promise<PageOutcome[]> {
    const { uploadId, original, attempt } = this.#parts.job;
    const outcomes: PageOutcome[] = [];
    try {
      for (const { report, publish } of batch) {
        const { page, status } = report;
        if (status === 'failed') outcomes.push({ page, status, error: report.error });
        else if (uploadId === null || original === null) throw new RejectedOutput('the job has no pages');
        else outcomes.push(await publish(report, pagePath(uploadId, original, page, String(attempt))));
      }
    } catch (error) {
      await this.#discard(outcomes);
      throw error;
    }
    return outcomes;
  }

  /** Returns false, and marks the attempt as lost, when the job no longer belongs to it. */
  async #isOwned(record: (db: Database, job: ClaimedJob) => Promise<boolean>): Promise<boolean> {
    const { db, job, log, stop, onLost } = this.#parts;
    const isOwned = await persist(log, stop, () => record(db, job));
    if (!isOwned) onLost();
    return isOwned;
  }
}

function countPages(outcomes: PageOutcome[]): void {
  for (const { status, ...outcome } of outcomes) {
    pagesMetric.inc({ status, engine: 'engine' in outcome ? outcome.engine : 'none' });
  }
}
