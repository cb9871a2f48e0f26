import { openAsBlob } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { startService } from '../service.ts';
import type { End, System } from './run.ts';

/** One query serves all waiting uploads; the duration of an upload is read from its row. */
const POLL_MS = 200;
/** Codes that say what is wrong with a file; `internal` does not. */
const CLEAR_CODES = [
  'unsupported_media_type',
  'corrupt_file',
  'unsupported_feature',
  'encrypted_pdf',
  'wrong_password',
  'too_many_pages',
  'too_many_pixels',
  'page_out_of_range',
  'out_of_memory',
  'timeout',
];

/** Starts this service. An upload is measured from its POST to its end. */
export async function startSheetmill({
  folder,
  cores,
  capacityMb,
  signal,
  say,
}: {
  folder: string;
  cores: number;
  /** The memory that sandboxes may reserve at one time. */
  capacityMb: number;
  signal: AbortSignal;
  say: (line: string) => void;
}): Promise<System> {
  // Failures are expected here: they are counted, not logged.
  const environment = { CAPACITY_MEMORY_MB: String(capacityMb), LOG_LEVEL: 'error' };
  const service = await startService(folder, cores, signal, environment);
  const waiting = new Map<string, PromiseWithResolvers<End>>();
  const stopping = new AbortController();

  async function watch(): Promise<void> {
    while (!stopping.signal.aborted) {
      if (service.converterPid() === undefined) {
        say('the converter has ended; starting another');
        await service.restartConverter();
      }
      const { rows } = await service.pool.query(
        `select id, status, error, finished_at, array(
           select concat_ws(': ', type, job_attempts.error ->> 'code', job_attempts.error ->> 'message')
           from jobs join job_attempts on job_id = jobs.id
           where upload_id = uploads.id and job_attempts.status = 'failed') as disturbances
         from uploads where id = any($1) and finished_at is not null`,
        [[...waiting.keys()]],
      );
      for (const row of rows) {
        waiting.get(row.id)?.resolve(endOf(row));
        waiting.delete(row.id);
        // As the baseline does with its output. One whose other ranges still run is refused, and stays.
        void fetch(`${service.url}/uploads/${row.id}`, { method: 'DELETE', signal }).catch(() => undefined);
      }
      await delay(POLL_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }

  try {
    await service.restartConverter();
  } catch (error) {
    await service.stop();
    throw error;
  }
  const watching = watch().catch((error: Error) => {
    for (const { reject } of waiting.values()) reject(error);
  });

  return {
    async convert(upload) {
      const form = new FormData();
      form.append('file', await openAsBlob(upload.file), path.basename(upload.file));
      const response = await fetch(`${service.url}/uploads`, { method: 'POST', body: form, signal });
      const { id, code } = (await response.json()) as { id: string; code?: string };
      if (!response.ok) {
        return { outcome: clearly(code), reason: String(code), disturbances: [], finished: Date.now() };
      }
      const end = Promise.withResolvers<End>();
      waiting.set(id, end);
      return end.promise;
    },
    roots: () => [service.converterPid() ?? []].flat(),
    async stop() {
      stopping.abort();
      await watching;
      await service.stop();
    },
  };
}

interface UploadRow {
  status: string;
  error: { code: string } | null;
  finished_at: Date;
  disturbances: string[];
}

function endOf({ status, error, finished_at, disturbances }: UploadRow): End {
  const outcome = status === 'completed' ? 'converted' : status === 'failed' ? clearly(error?.code) : 'lost';
  const reason = outcome === 'converted' ? '' : (error?.code ?? status);
  return { outcome, reason, disturbances, finished: finished_at.getTime() };
}

function clearly(code: string | undefined): 'failed' | 'lost' {
  return CLEAR_CODES.includes(code ?? '') ? 'failed' : 'lost';
}
