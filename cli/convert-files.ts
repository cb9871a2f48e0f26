import { type Client, createClient, type UploadFields, type UploadStatus } from './client.ts';
import { exitCodeOf, type Failure, failureOf } from './errors.ts';
import type { Report } from './report.ts';

interface PageResult {
  page: number;
  file: string | null;
  width: number | null;
  height: number | null;
  dpi: number | null;
  error: Failure | null;
}

const NOT_CONVERTED: Failure = { code: 'not_converted', message: 'was not converted' };
const CLEAN_UP_MS = 5_000;

/** A file of the command line and its result. `--json` shows the public fields. */
export class FileConversion {
  readonly file: string;
  /** The ID of its upload; null before it is uploaded. */
  id: string | null = null;
  readonly pages: PageResult[] = [];
  error: Failure | null = NOT_CONVERTED;
  /** The path of its pages without number and extension. */
  readonly #prefix: string;

  constructor(file: string, prefix: string) {
    this.file = file;
    this.#prefix = prefix;
  }

  /** False until it was converted, failed or was interrupted. */
  get hasEnded(): boolean {
    return this.error !== NOT_CONVERTED;
  }

  /** Uploads the file, waits for its pages and saves them. */
  async run(client: Client, fields: UploadFields, onStatus?: (status: UploadStatus) => void): Promise<void> {
    const { id } = await client.uploads.create(this.file, fields);
    this.id = id;
    const upload = await client.uploads.done(id, onStatus && { onStatus });
    for await (const { original, page, width, height, dpi, error } of client.uploads.pages(id)) {
      const file = error === null ? `${this.#prefix}-${String(page).padStart(4, '0')}.png` : null;
      if (file !== null) await client.uploads.page(id, original, page).save(file);
      this.pages.push({ page, file, width, height, dpi, error });
    }
    const { status, error } = upload;
    this.error = status === 'completed' ? null : (error ?? { code: status, message: `the upload is ${status}` });
  }

  fail(error: Failure): void {
    this.error = error;
  }
}

interface Options {
  url: string;
  key?: string | undefined;
  /** True for an embedded service: uploads are deleted after they are saved. */
  isEmbedded: boolean;
  fields: UploadFields;
  concurrency: number;
  report: Report;
  signal: AbortSignal;
}

/**
 * Converts each file as a separate upload. Throws errors that affect all files: the reason of the signal, an unreachable
 * service, a refused key.
 */
export async function convertFiles(conversions: FileConversion[], options: Options): Promise<void> {
  const { url, key, isEmbedded, fields, concurrency, report, signal } = options;
  const client = createClient({ url, key, signal });
  // Unlike other calls this one is not repeated, so an unreachable service is reported at once.
  await client.health.ready();

  await inParallel(concurrency, conversions, async (conversion) => {
    report.begin(conversion);
    const onStatus = report.hasBars ? (status: UploadStatus) => report.update(conversion, status) : undefined;
    try {
      await conversion.run(client, fields, onStatus);
      if (isEmbedded) await release(conversion, options);
    } catch (error) {
      conversion.fail(signal.aborted ? { code: 'interrupted', message: 'interrupted' } : failureOf(error));
      if (signal.aborted) await release(conversion, options);
      if (signal.aborted || exitCodeOf(error) !== 1) throw error;
    }
    report.end(conversion);
  });
}

/** Deletes or cancels an upload that is no longer needed. An error is ignored: the result does not depend on it. */
async function release({ id }: FileConversion, { url, key, isEmbedded }: Options): Promise<void> {
  if (id === null) return;
  const { uploads } = createClient({ url, key, signal: AbortSignal.timeout(CLEAN_UP_MS) });
  await (isEmbedded ? uploads.delete(id) : uploads.cancel(id)).catch(() => undefined);
}

/** Runs `work` for at most `limit` items at a time. Throws the first error, after which no further item is started. */
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
