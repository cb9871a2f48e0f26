import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { readArguments, readChoice, readKey, readNumber, readUrl, SERVICE_OPTIONS, UsageError } from './arguments.ts';
import { convertFiles, NOT_CONVERTED, type Outcome } from './convert-files.ts';
import { withEmbeddedService } from './embedded-service.ts';
import { failureOf } from './failures.ts';
import { outputNames, whyUnusable } from './inputs.ts';
import { createReport } from './report.ts';

export const help = `Usage: sheetmill convert FILE... --out DIR [options]

Converts PDFs, PNGs and JPEGs. Page 7 of book.pdf becomes DIR/book-0007.png; a file there is replaced. Of two files with
the same name, the second becomes book-2-0001.png and so on. A file that cannot be converted does not stop the others.

  --out DIR         where the pages go; made if it is not there
  --url URL         the service; $SHEETMILL_URL where it is not given. With neither, a service of its own is started
                    for this command, which takes some seconds, and removed again
  --key KEY         the service's API key; $SHEETMILL_KEY where it is not given
  --dpi N           36 to 600; 200 by default
  --pages 1-3,7     these pages alone
  --password P      for encrypted PDFs
  --engine E        pdfium or pdf-to-img: draws PDF pages first; the service chooses by default
  --concurrency N   how many files are under way at a time; 4 by default
  --data DIR        where the service of its own keeps its database, so that the next one starts faster
  --json            one JSON document on standard output, and nothing else there

Exit code 0 if all were converted, 1 if some were not; others as in sheetmill --help.
`;

const OPTIONS = {
  ...SERVICE_OPTIONS,
  out: { type: 'string' },
  dpi: { type: 'string' },
  pages: { type: 'string' },
  password: { type: 'string' },
  engine: { type: 'string' },
  concurrency: { type: 'string' },
  data: { type: 'string' },
} as const;
const DEFAULT_CONCURRENCY = 4;

export async function run(args: string[], signal: AbortSignal): Promise<number> {
  const { values, positionals: files } = readArguments(args, OPTIONS);
  const { out, data } = values;
  const url = readUrl(values.url);
  const fields = {
    dpi: readNumber('dpi', values.dpi, 36, 600),
    pages: values.pages,
    password: values.password,
    engine: readChoice('engine', values.engine, ['pdfium', 'pdf-to-img'] as const),
  };
  const concurrency = readNumber('concurrency', values.concurrency, 1, 64) ?? DEFAULT_CONCURRENCY;
  if (files.length === 0) throw new UsageError('name the files to convert');
  if (out === undefined) throw new UsageError('--out DIR is missing: where do the pages go?');
  if (url !== undefined && data !== undefined)
    throw new UsageError('--data is for a service of its own, without --url');
  await mkdir(out, { recursive: true }).catch((error: Error) => {
    throw new UsageError(`--out ${out}: ${error.message}`);
  });

  const report = createReport(values.json);
  const names = outputNames(files);
  const outcomes = files.map((file): Outcome => ({ file, id: null, pages: [], error: NOT_CONVERTED }));
  const work: { outcome: Outcome; prefix: string }[] = [];
  for (const [index, outcome] of outcomes.entries()) {
    const message = await whyUnusable(outcome.file);
    if (message === undefined) {
      work.push({ outcome, prefix: path.join(out, names[index] as string) });
    } else {
      outcome.error = { code: 'unusable_file', message };
      report.done(outcome);
    }
  }

  let fatal: unknown;
  if (work.length > 0) {
    const options = { fields, concurrency, report, signal };
    const converting =
      url === undefined
        ? withEmbeddedService(data, signal, (own) => convertFiles(work, { ...options, url: own, isOurs: true }))
        : convertFiles(work, { ...options, url, key: readKey(values.key), isOurs: false });
    await converting.catch((error) => {
      fatal = error;
    });
  }
  for (const outcome of outcomes) if (outcome.error === NOT_CONVERTED && fatal) outcome.error = failureOf(fatal);
  report.end(outcomes);
  if (fatal !== undefined) throw fatal;
  return outcomes.every(({ error }) => error === null) ? 0 : 1;
}
