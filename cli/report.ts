import path from 'node:path';
import { MultiBar, Presets, type SingleBar } from 'cli-progress';
import type { UploadStatus } from './client.ts';
import type { Outcome } from './convert-files.ts';

export type Report = ReturnType<typeof createReport>;

const NAME_WIDTH = 24;

/**
 * Tells a person of a conversion: a bar for each file under way, if standard error is a terminal, and a line for each
 * that is done. With `json` it tells a program instead: one document at the end.
 */
export function createReport(json: boolean) {
  const bars = json || !process.stderr.isTTY ? undefined : createBars();
  const barOf = new Map<Outcome, SingleBar>();

  function say(line: string, stream: NodeJS.WriteStream): void {
    // A line above the bars, where both are on the same terminal.
    if (bars && stream.isTTY) bars.log(line);
    else stream.write(line);
  }

  return {
    /** Whether it is worth asking how far a file has come. */
    isWatched: bars !== undefined,

    begin(outcome: Outcome): void {
      const name = path.basename(outcome.file).slice(0, NAME_WIDTH).padEnd(NAME_WIDTH);
      const bar = bars?.create(1, 0, { name, state: 'sending' });
      if (bar) barOf.set(outcome, bar);
    },

    /** Moves the file's bar. */
    progressOf:
      (outcome: Outcome) =>
      ({ status, progress: { pages_done, pages_total } }: UploadStatus): void => {
        const bar = barOf.get(outcome);
        bar?.setTotal(pages_total ?? Math.max(1, pages_done));
        bar?.update(pages_done, { state: pages_total === null ? status : `${pages_done} of ${pages_total} pages` });
      },

    done(outcome: Outcome): void {
      if (!json && outcome.error === null) say(`${outcome.file}: ${savedIn(outcome)}\n`, process.stdout);
      if (outcome.error !== null) {
        const saved = outcome.pages.some(({ error }) => error === null) ? ` (${savedIn(outcome)})` : '';
        say(`sheetmill: ${outcome.file}: ${outcome.error.message}${saved}\n`, process.stderr);
      }
      const bar = barOf.get(outcome);
      if (bar) bars?.remove(bar);
    },

    end(outcomes: Outcome[]): void {
      bars?.stop();
      if (!json) return;
      const failed = outcomes.filter(({ error }) => error !== null).length;
      const document = { converted: outcomes.length - failed, failed, files: outcomes };
      process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
    },
  };
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

/** Such as `3 pages, out/a-0001.png to out/a-0003.png`. */
function savedIn({ pages }: Outcome): string {
  const files = pages.filter(({ error }) => error === null).map(({ file }) => file);
  if (files.length < 2) return files[0] ?? 'no pages';
  return `${files.length} pages, ${files[0]} to ${files.at(-1)}`;
}
