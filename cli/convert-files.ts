import { createClient, type UploadFields, type UploadStatus } from './client.ts';
import { exitCodeOf, failureOf } from './errors.ts';
import type { FileConversion } from './file-conversion.ts';
import type { Report } from './report.ts';

const CLEAN_UP_MS = 5_000;

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
