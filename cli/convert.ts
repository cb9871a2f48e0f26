import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { readArguments, readChoice, readKey, readNumber, readUrl, SERVICE_OPTIONS } from './arguments.ts';
import { convertFiles } from './convert-files.ts';
import { withEmbeddedService } from './embedded-service.ts';
import { failureOf, UsageError } from './errors.ts';
import { FileConversion } from './file-conversion.ts';
import { outputNames, whyUnusable } from './inputs.ts';
import { interruptSignal } from './interrupt.ts';
import { Report } from './report.ts';

export const help = `Usage: sheetmill convert FILE... --out DIR [options]

Converts PDFs, PNGs and JPEGs. Page 7 of book.pdf becomes DIR/book-0007.png; an existing file is replaced. If two files
have the same name, the pages of the second are book-2-0001.png and so on. A file that fails does not stop the others.

  --out DIR         the folder for the pages; created if it is missing
  --url URL         the service; default $SHEETMILL_URL. With neither, an embedded service runs for this command, which
                    takes some seconds to start
  --key KEY         the API key of the service; default $SHEETMILL_KEY
  --dpi N           36 to 600; default 200
  --pages 1-3,7     convert only these pages
  --password P      the password of encrypted PDFs
  --engine E        pdfium or pdf-to-img: the first PDF engine to try; default: the service chooses
  --concurrency N   the number of files at a time, 1 to 64; default 4
  --data DIR        keep the database of the embedded service in DIR, so that the next one starts faster
  --json            print one JSON document to standard output

Exit code 0 if all files were converted, 1 if some failed; see sheetmill --help for the others.
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

export async function run(args: string[]): Promise<number> {
  const { files, out, url, key, data, json, fields, concurrency } = readCommand(args);
  const signal = interruptSignal();
  await mkdir(out, { recursive: true }).catch((error: Error) => {
    throw new UsageError(`--out ${out}: ${error.message}`);
  });
  const report = new Report(json);
  const names = outputNames(files);
  const conversions = files.map((file, index) => new FileConversion(file, path.join(out, names[index] ?? '')));
  const usable = await rejectUnusable(conversions, report);
  try {
    const options = { fields, concurrency, report, signal };
    if (usable.length === 0) return 1;
    if (url !== undefined) await convertFiles(usable, { ...options, url, key, isEmbedded: false });
    else await withEmbeddedService(data, signal, (url) => convertFiles(usable, { ...options, url, isEmbedded: true }));
  } catch (error) {
    for (const conversion of conversions) if (!conversion.hasEnded) conversion.fail(failureOf(error));
    throw error;
  } finally {
    report.finish(conversions);
  }
  return conversions.every(({ error }) => error === null) ? 0 : 1;
}

function readCommand(args: string[]) {
  const { values, positionals: files } = readArguments(args, OPTIONS);
  const { out, data, json } = values;
  const url = readUrl(values.url);
  const fields = {
    dpi: readNumber('dpi', values.dpi, 36, 600),
    pages: values.pages,
    password: values.password,
    engine: readChoice('engine', values.engine, ['pdfium', 'pdf-to-img'] as const),
  };
  const concurrency = readNumber('concurrency', values.concurrency, 1, 64) ?? DEFAULT_CONCURRENCY;
  if (files.length === 0) throw new UsageError('no files given');
  if (out === undefined) throw new UsageError('--out DIR is missing');
  if (url !== undefined && data !== undefined) throw new UsageError('--data is not valid with --url');
  return { files, out, url, key: readKey(values.key), data, json, fields, concurrency };
}

/** Reports the files that cannot be sent and returns the others. */
async function rejectUnusable(conversions: FileConversion[], report: Report): Promise<FileConversion[]> {
  for (const conversion of conversions) {
    const message = await whyUnusable(conversion.file);
    if (message === undefined) continue;
    conversion.fail({ code: 'unusable_file', message });
    report.end(conversion);
  }
  return conversions.filter(({ hasEnded }) => !hasEnded);
}
