import type { Database } from '../db/client.ts';
import type { PageRange } from '../db/schema.ts';
import { listPagePaths } from '../db/uploads.ts';
import type { ClaimedJob } from '../jobs/claim.ts';
import { type Inspection, type PageOutcome, recordPages } from '../jobs/conversion.ts';
import { pagesIn } from '../jobs/pages.ts';
import type { Logger } from '../log.ts';
import { createSignal } from '../signal.ts';
import { pagePath } from '../store/paths.ts';
import { pages as pagesMetric } from './metrics.ts';
import { persist } from './persist.ts';

/** Pages that are ready within this time are recorded in one transaction. */
const BATCH_MS = 200;
/** The inspection of the original waits this long for the first page, to be recorded with it. */
const INSPECTION_MS = 500;
/** A task that makes pages faster than they are recorded waits. */
const MAX_WAITING_PAGES = 200;

interface Parts {
  db: Database;
  job: ClaimedJob;
  log: Logger;
  /** Ends attempts to reach the database. */
  stop: AbortSignal;
  /** Makes a page visible in the store. */
  publish: (storePath: string) => Promise<unknown>;
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
  readonly #settled: number[];
  #selected: PageRange[];
  #found: Inspection | undefined;
  #waiting: PageOutcome[] = [];
  #written: Promise<void> = Promise.resolve();
  #isWriting = false;
  #isEnding = false;
  /** Set with each page, and by `flush`. */
  readonly #news = createSignal();
  readonly #hurry = createSignal();

  constructor(parts: Parts, selected: PageRange[]) {
    this.#parts = parts;
    this.#settled = [];
    this.#selected = selected;
  }

  /** Pages that have an outcome, in this attempt or before. */
  get settled(): readonly number[] {
    return this.#settled;
  }

  /** Pages of the conversion that have no outcome yet. */
  get left(): number[] {
    const settled = new Set(this.#settled);
    return pagesIn(this.#selected).filter((page) => !settled.has(page));
  }

  /** Adds pages that an earlier attempt settled. */
  addSettled(pages: readonly number[]): void {
    this.#settled.push(...pages);
  }

  inspected(found: Inspection): void {
    this.#selected = found.selected;
    this.#found = found;
    this.#write();
  }

  /** Gives a promise when too many pages wait, which resolves when they are recorded or never will be. */
  page(outcome: PageOutcome): Promise<void> | undefined {
    this.#settled.push(outcome.page);
    this.#waiting.push(outcome);
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
      for (const outcome of batch) if (outcome.status === 'completed') await this.#publish(outcome);
      if (await this.#isOwned((db, job) => recordPages(db, job, batch, found))) countPages(batch);
      else await this.#discard(batch);
      if (!this.#isEnding && batch.length > 0) await this.#hurry.wait(BATCH_MS);
    }
    this.#isWriting = false;
  }

  /** Removes pages that no row names: the answer to a write that took place may have been lost before the job was. */
  async #discard(batch: PageOutcome[]): Promise<void> {
    const { db, job, log, discard } = this.#parts;
    try {
      const recorded = new Set(await listPagePaths(db, job.uploadId === null ? [] : [job.uploadId]));
      for (const outcome of batch)
        if (outcome.status === 'completed' && !recorded.has(outcome.path)) await discard(outcome.path);
    } catch (error) {
      log.warn({ err: error }, 'pages of a lost attempt left to the sweep');
    }
  }

  /** A sandbox is not trusted: rows name nothing but pages of their own. */
  async #publish({ page, path }: PageOutcome & { status: 'completed' }): Promise<void> {
    const { job, publish } = this.#parts;
    if (path !== pagePath(job.uploadId ?? '', job.original ?? 0, page, String(job.attempt))) {
      throw new Error(`not the path of page ${page}: ${path}`);
    }
    await publish(path);
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
