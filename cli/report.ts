import path from 'node:path';
import { MultiBar, Presets, type SingleBar } from 'cli-progress';
import type { UploadStatus } from './client.ts';
import type { FileConversion } from './file-conversion.ts';

const NAME_WIDTH = 24;

/**
 * Reports a conversion: a progress bar for each running file if standard error is a terminal, and a line for each ended
 * one. With `--json` it writes one document at the end instead of lines and bars.
 */
export class Report {
  readonly #isJson: boolean;
  /** Undefined if bars are not shown. */
  readonly #bars: MultiBar | undefined;
  readonly #barOf = new Map<FileConversion, SingleBar>();

  constructor(isJson: boolean) {
    this.#isJson = isJson;
    this.#bars = isJson || !process.stderr.isTTY ? undefined : createBars();
  }

  /** True if `update` shows anything. */
  get hasBars(): boolean {
    return this.#bars !== undefined;
  }

  begin(conversion: FileConversion): void {
    const name = path.basename(conversion.file).slice(0, NAME_WIDTH).padEnd(NAME_WIDTH);
    const bar = this.#bars?.create(1, 0, { name, state: 'sending' });
    if (bar) this.#barOf.set(conversion, bar);
  }

  update(conversion: FileConversion, { status, progress: { pages_done, pages_total } }: UploadStatus): void {
    const bar = this.#barOf.get(conversion);
    bar?.setTotal(pages_total ?? Math.max(1, pages_done));
    bar?.update(pages_done, { state: pages_total === null ? status : `${pages_done} of ${pages_total} pages` });
  }

  end(conversion: FileConversion): void {
    const { file, error, pages } = conversion;
    if (error !== null) {
      const saved = pages.some((page) => page.error === null) ? ` (${savedIn(conversion)})` : '';
      this.#write(`sheetmill: ${file}: ${error.message}${saved}\n`, process.stderr);
    } else if (!this.#isJson) {
      this.#write(`${file}: ${savedIn(conversion)}\n`, process.stdout);
    }
    const bar = this.#barOf.get(conversion);
    if (bar) this.#bars?.remove(bar);
  }

  /** Removes the bars, and writes the document of `--json`. */
  finish(files: FileConversion[]): void {
    this.#bars?.stop();
    if (!this.#isJson) return;
    const failed = files.filter(({ error }) => error !== null).length;
    const document = { converted: files.length - failed, failed, files };
    process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
  }

  /** Writes above the bars if both share the terminal. */
  #write(line: string, stream: NodeJS.WriteStream): void {
    if (this.#bars && stream.isTTY) this.#bars.log(line);
    else stream.write(line);
  }
}

function createBars(): MultiBar {
  return new MultiBar(
    {
      format: ' {name} {bar} {state}',
      stream: process.stderr,
      barsize: 24,
      hideCursor: true,
      linewrap: false,
      clearOnComplete: true,
      emptyOnZero: true,
      gracefulExit: false,
    },
    Presets.shades_classic,
  );
}

/** For example `3 pages, out/a-0001.png to out/a-0003.png`. */
function savedIn({ pages }: FileConversion): string {
  const files = pages.filter(({ error }) => error === null).map(({ file }) => file);
  if (files.length < 2) return files[0] ?? 'no pages';
  return `${files.length} pages, ${files[0]} to ${files.at(-1)}`;
}
