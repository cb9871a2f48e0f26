import { copyFileSync } from 'node:fs';
import path from 'node:path';
import type { PdfEngine } from '../../conversion/conversion-task.ts';
import { pagesIn } from '../../conversion/page-selection.ts';
import { convert, inspectionShape } from '../../conversion/tasks/convert.ts';
import { convertRange, rangeOf } from '../../conversion/tasks/convert-range.ts';
import { type PrepareRetry, runWithRecovery } from '../../converter/continue-after-crash.ts';
import { pageName } from '../../converter/files/output-names.ts';
import type { PrivateFolder } from '../../converter/files/private-folder.ts';
import type { TaskEvent, TaskRequest } from '../../converter/run-task.ts';
import type { SandboxPool } from '../../converter/sandbox/pool.ts';
import type { RunResult } from '../../converter/task-runner.ts';

/** The limits of one page: a corpus holds files that were made to break converters. */
export const PAGE_TIMEOUT_SECONDS = 60;
const MAX_MEMORY_MB = 1024;
/** `--pages all` stops here. */
const MAX_PAGES_A_FILE = 200;
const JOB_TIMEOUT_MS = 600_000;
const MAX_PIXELS = 1e9;
/** Page paths need an upload; files of a corpus have none. */
const UPLOAD_ID = 'corpus';

export interface DrawnPage {
  result: 'drawn';
  page: number;
  /** The local path of the PNG. */
  picture: string;
  width: number;
  height: number;
  dpi: number;
  engine: string;
  /** Why another engine than the first drew the page, or what is missing on it. */
  note: string | null;
  seconds: number;
}

/** A page that was not drawn; `page` is null when the file as a whole was not. `lost` is a page without any result. */
interface MissingPage {
  result: 'failed' | 'lost';
  page: number | null;
  code: string | null;
  message: string;
  seconds: number;
}

export type PageResult = DrawnPage | MissingPage;

export interface ConvertOptions {
  pool: SandboxPool;
  /** The folder that takes the pages. */
  picturesFolder: string;
  engine: PdfEngine;
  pages: 'first' | 'all';
  dpi: number;
  signal: AbortSignal;
}

/** Converts the pages of one PDF as a converter does, split into ranges and with more memory where it needs that. */
export function convertFile(file: string, bytes: number, options: ConvertOptions): Promise<PageResult[]> {
  return new FileConversion(file, bytes, options).run();
}

class FileConversion {
  readonly #file: string;
  readonly #firstMemoryMb: number;
  readonly #options: ConvertOptions;
  readonly #results: PageResult[] = [];
  /** The pages that have a result. */
  readonly #settled: number[] = [];
  /** That of the sandbox which converts now. */
  #folder: PrivateFolder | undefined;
  /** The pages to convert; null until the file was inspected. */
  #selected: number[] | null = null;
  /** When the last page was settled. */
  #lastAt = performance.now();

  constructor(file: string, bytes: number, options: ConvertOptions) {
    this.#file = file;
    this.#firstMemoryMb = Math.min(MAX_MEMORY_MB, inspectionShape('application/pdf', bytes).memoryMb);
    this.#options = options;
  }

  async run(): Promise<PageResult[]> {
    await this.#convert(this.#options.pages === 'first' ? '1' : null);
    const isTooLong = this.#results.some((result) => result.result === 'failed' && result.code === 'too_many_pages');
    if (isTooLong && this.#options.pages === 'all') {
      this.#results.length = 0;
      await this.#convert(`1-${MAX_PAGES_A_FILE}`);
    }
    for (const page of this.#left()) this.#miss('lost', page, null, 'the conversion ended without this page');
    if (this.#results.length === 0) this.#miss('lost', null, null, 'the conversion ended without any page');
    return this.#results.sort((a, b) => (a.page ?? 0) - (b.page ?? 0));
  }

  #convert(selection: string | null): Promise<void> {
    const { dpi } = this.#options;
    const payload = { upload_id: UPLOAD_ID, original: 1, path: this.#file, media_type: 'application/pdf', dpi };
    return this.#runJob(convert.type, { ...payload, page_selection: selection }, this.#firstMemoryMb);
  }

  async #runJob(type: string, payload: Record<string, unknown>, memoryMb: number, spentSeconds = 0): Promise<void> {
    const { pool, signal } = this.#options;
    signal.throwIfAborted();
    const lease = pool.lease(memoryMb, null);
    const onEvent = (event: TaskEvent) => this.#onEvent(event);
    const run = { deadlineMs: JOB_TIMEOUT_MS, spentOnPage: () => spentSeconds, signal, onEvent };
    const request = this.#request(type, payload, memoryMb);
    const prepare: PrepareRetry = async (folder, failedSteps) => {
      this.#folder = folder;
      return { ...request, failedSteps, input: await folder.copyIn(this.#file), outputFolder: folder.output };
    };
    const memory = { reservedMb: memoryMb, maxMb: MAX_MEMORY_MB };
    const ran = await runWithRecovery(lease, prepare, run, memory).finally(() => {
      lease.release();
      pool.refill();
    });
    signal.throwIfAborted();
    await this.#settle(ran, { type, payload, memoryMb });
  }

  async #settle(
    { outcome, step, spentSeconds }: RunResult,
    { type, payload, memoryMb }: { type: string; payload: Record<string, unknown>; memoryMb: number },
  ): Promise<void> {
    if (outcome.kind === 'completed' || outcome.kind === 'aborted') return;
    if (outcome.kind === 'split') {
      for (const part of outcome.parts) {
        const range = rangeOf(payload, pagesIn(part.pages));
        await this.#runJob(convertRange.type, range, Math.min(MAX_MEMORY_MB, part.memoryMb));
      }
      return;
    }
    if (outcome.kind === 'snoozed') throw new Error('a conversion does not snooze');
    const { code, message } = outcome.error;
    if (outcome.kind === 'died' && outcome.how === 'outgrown' && memoryMb < MAX_MEMORY_MB) {
      return this.#runJob(type, payload, MAX_MEMORY_MB, spentSeconds);
    }
    const culprit = outcome.kind === 'died' ? (step?.page ?? null) : null;
    if (culprit !== null && !this.#settled.includes(culprit)) {
      this.#miss('failed', culprit, code, message);
      if (this.#left().length > 0) await this.#runJob(type, payload, memoryMb);
      return;
    }
    const left = this.#left();
    for (const page of left.length > 0 ? left : [null]) this.#miss('failed', page, code, message);
  }

  #request(type: string, payload: Record<string, unknown>, memoryMb: number): Omit<TaskRequest, 'outputFolder'> {
    return {
      type,
      payload,
      attempt: 1,
      files: { originals: [], pages: [] },
      input: this.#file,
      password: null,
      dependencies: [],
      settledPages: this.#settled,
      failedSteps: [],
      reservation: { cpuUnits: 1, memoryMb },
      limits: {
        maxPages: MAX_PAGES_A_FILE,
        maxPixels: MAX_PIXELS,
        stepSeconds: PAGE_TIMEOUT_SECONDS,
        firstEngine: this.#options.engine,
      },
    };
  }

  #onEvent(event: TaskEvent): void {
    if (event.kind === 'inspected') this.#selected = pagesIn(event.found.selected);
    if (event.kind !== 'page') return;
    const { report } = event;
    if (report.status === 'failed') {
      this.#miss('failed', report.page, report.error.code, report.error.message);
      return;
    }
    // Events carry a note only since engines give a second opinion.
    const facts: { engine: string; note?: string | null } = report;
    const { page, width, height, dpi } = report;
    const picture = path.join(this.#options.picturesFolder, pageName(page));
    // The folder of the sandbox is emptied for its next run.
    copyFileSync(path.join(this.#folder?.output ?? '', pageName(page)), picture);
    const { engine, note = null } = facts;
    this.#settled.push(page);
    const seconds = this.#lap();
    this.#results.push({
      result: 'drawn',
      page,
      picture,
      width,
      height,
      dpi: dpi ?? this.#options.dpi,
      engine,
      note,
      seconds,
    });
  }

  #miss(result: MissingPage['result'], page: number | null, code: string | null, message: string): void {
    if (page !== null) this.#settled.push(page);
    this.#results.push({ result, page, code, message, seconds: this.#lap() });
  }

  #left(): number[] {
    return (this.#selected ?? []).filter((page) => !this.#settled.includes(page));
  }

  /** Seconds since the page before was settled, or since the file was begun. */
  #lap(): number {
    const before = this.#lastAt;
    this.#lastAt = performance.now();
    return (this.#lastAt - before) / 1000;
  }
}
