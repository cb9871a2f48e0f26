import { pagesIn } from '../conversion/page-ranges.ts';
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

/** Pages that are ready within this time are recorded in one transaction. */
const BATCH_MS = 200;
/** The inspection of the original waits this long for the first page, to be recorded with it. */
const INSPECTION_MS = 500;
/** A task that makes pages faster than they are recorded waits. */
const MAX_WAITING_PAGES = 200;

type Publish = (
  report: PageReport & { status: 'completed' },
  storePath: string,
) => Promise<PageOutcome & { status: 'completed' }>;

interface Parts {
  db: Database;
  job: ClaimedJob;
  log: Logger;
  /** Ends attempts to reach the database. */
  stop: AbortSignal;
  /** Removes a page that no row will name. */
  discard: (storePath: string) => Promise<unknown>;
  /** The job no longer belongs to this attempt. */
  onLost: () => void;
  /** Writing failed for a reason that no further attempt mends. */
  onBroken: () => void;
}

/**
 * Records what a running conversion reports of its original and pages, in order. The first page is recorded at once, later
 * ones in batches. `flush` resolves when all is recorded, and rejects with the error that broke the recording.
 */
export class PageRecorder {
  readonly #parts: Parts;
  readonly #settled = new Set<number>();
  #selected: ReadonlySet<number>;
  #found: Inspection | undefined;
  #waiting: { report: PageReport; publish: Publish }[] = [];
  #written: Promise<void> = Promise.resolve();
  #isWriting = false;
  #isEnding = false;
  /** Set with each page, and by `flush`. */
  readonly #news = new WakeFlag();
  readonly #hurry = new WakeFlag();

  constructor(parts: Parts, selected: PageRange[]) {
    this.#parts = parts;
    this.#selected = new Set(pagesIn(selected));
  }

  /** Pages that have an outcome, in this attempt or before. */
  get settled(): number[] {
    return [...this.#settled];
  }

  /** Those that have no outcome yet. */
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
   * `publish` moves the PNG of the page into the store. Gives a promise when too many pages wait, which resolves when they
   * are recorded or never will be.
   */
  page(report: PageReport, publish: Publish): Promise<void> | undefined {
    this.#settled.add(report.page);
    this.#waiting.push({ report, publish });
    this.#news.set();
    this.#write();
    return this.#waiting.length > MAX_WAITING_PAGES ? this.#written.catch(() => undefined) : undefined;
  }

  flush(): Promise<void> {
    this.#isEnding = true;
    this.#news.set();
    this.#hurry.set();
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
      if (this.#waiting.length === 0 && !this.#isEnding) await this.#news.wait(INSPECTION_MS);
      const batch = this.#waiting.splice(0);
      const found = this.#found;
      this.#found = undefined;
      const outcomes = await this.#publish(batch);
      if (await this.#isOwned((db, job) => recordPages(db, job, outcomes, found))) countPages(outcomes);
      else await this.#discard(outcomes);
      if (!this.#isEnding && batch.length > 0) await this.#hurry.wait(BATCH_MS);
    }
    this.#isWriting = false;
  }

  /** Removes pages that no row names: the answer to a write that took place may have been lost before the job was. */
  async #discard(outcomes: PageOutcome[]): Promise<void> {
    const { db, job, log, discard } = this.#parts;
    try {
      const recorded = new Set(await listPagePaths(db, job.uploadId === null ? [] : [job.uploadId]));
      for (const outcome of outcomes)
        if (outcome.status === 'completed' && !recorded.has(outcome.path)) await discard(outcome.path);
    } catch (error) {
      log.warn({ err: error }, 'pages of a lost attempt left to the sweep');
    }
  }

  /** The path of a page comes from the job alone: a sandbox has no say in it. */
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

  /** Records something; false, and the attempt is lost, when the job belongs to another attempt or to none. */
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
