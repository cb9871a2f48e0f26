import { type Client, createClient, type Upload, type UploadFields } from './client.ts';
import { exitCodeOf, failureOf } from './failures.ts';
import type { Report } from './report.ts';

/** What became of a file of the command line. */
export interface Outcome {
  file: string;
  /** Of its upload; null when there was none. */
  id: string | null;
  /** Those that were saved, and those that could not be made. */
  pages: PageOutcome[];
  error: Failure | null;
}

interface Failure {
  code: string;
  message: string;
}

interface PageOutcome {
  page: number;
  file: string | null;
  width: number | null;
  height: number | null;
  dpi: number | null;
  error: Failure | null;
}

/** Of a file that was not reached. */
export const NOT_CONVERTED: Failure = { code: 'not_converted', message: 'was not converted' };

const CLEAN_UP_MS = 5_000;

interface Options {
  url: string;
  key?: string | undefined;
  /** Nobody else uses the service: what is done is removed there. */
  isOurs: boolean;
  fields: UploadFields;
  concurrency: number;
  report: Report;
  signal: AbortSignal;
}

/**
 * Converts each file as an upload of its own, saves its pages under `prefix`, and fills in its outcome.
 * Throws what keeps the others from being converted, too: the signal's reason, a service that is away or wants another key.
 */
export async function convertFiles(work: { outcome: Outcome; prefix: string }[], options: Options): Promise<void> {
  const { url, key, isOurs, fields, concurrency, report, signal } = options;
  const client = createClient({ url, key, signal });
  // Nobody wants to wait a minute to hear that nothing listens there.
  await client.health.ready();

  /** Best effort: what it was made for is over. */
  async function giveUp(id: string): Promise<void> {
    const { uploads } = createClient({ url, key, signal: AbortSignal.timeout(CLEAN_UP_MS) });
    await (isOurs ? uploads.delete(id) : uploads.cancel(id)).catch(() => undefined);
  }

  await inParallel(concurrency, work, async ({ outcome, prefix }) => {
    report.begin(outcome);
    try {
      await convertFile(client, outcome, prefix, fields, report);
      if (isOurs) await giveUp(outcome.id as string);
    } catch (error) {
      outcome.error = signal.aborted ? { code: 'interrupted', message: 'interrupted' } : failureOf(error);
      if (signal.aborted && outcome.id !== null) await giveUp(outcome.id);
      if (signal.aborted || exitCodeOf(error) !== 1) throw error;
    }
    report.done(outcome);
  });
}

async function convertFile(
  client: Client,
  outcome: Outcome,
  prefix: string,
  fields: UploadFields,
  report: Report,
): Promise<void> {
  const { id } = await client.uploads.create(outcome.file, fields);
  outcome.id = id;
  const onStatus = report.isWatched ? { onStatus: report.progressOf(outcome) } : {};
  const upload = await client.uploads.done(id, onStatus);
  for await (const { original, page, width, height, dpi, error } of client.uploads.pages(id)) {
    const file = error === null ? `${prefix}-${String(page).padStart(4, '0')}.png` : null;
    if (file !== null) await client.uploads.page(id, original, page).save(file);
    outcome.pages.push({ page, file, width, height, dpi, error });
  }
  outcome.error = endOf(upload);
}

function endOf({ status, error }: Upload): Failure | null {
  return status === 'completed' ? null : (error ?? { code: status, message: `its upload is ${status}` });
}

/** As many at a time as `limit`. Throws the first error, after which no further item is begun. */
async function inParallel<Item>(limit: number, items: Item[], work: (item: Item) => Promise<void>): Promise<void> {
  const errors: unknown[] = [];
  const left = items.values();
  const lanes = Array.from({ length: limit }, async () => {
    for (const item of left) {
      if (errors.length > 0) return;
      await work(item).catch((error) => errors.push(error));
    }
  });
  await Promise.all(lanes);
  if (errors.length > 0) throw errors[0];
}
