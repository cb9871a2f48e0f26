import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rm } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { AppError } from '../errors.ts';
import { archivePath } from '../store/paths.ts';
import { defineTask } from './task.ts';

/** The result of an archive job: other jobs and the sweep of the store read it. */
export const archiveResult = z.strictObject({
  path: z.string().max(200),
  bytes: z.int().min(1),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  pages: z.int().min(1),
});

/** Zips the pages that an upload has by now into a file of the store. */
export const archive = defineTask({
  type: 'archive',
  payload: z.strictObject({ upload_id: z.uuid() }),
  resources: { cpuUnits: 1, memoryMb: 256 },
  reads: (payload) => payload.upload_id,
  readsOnly: 'pages',
  async run({ payload, files: { pages }, signal, output, progress }) {
    if (pages.length === 0) throw new AppError('task_failed', 'the upload has no pages yet', { retryable: true });
    const { zipPages } = await import('./zip-pages.ts');
    const storePath = archivePath(payload.upload_id, randomUUID());
    const files = pages.map(({ path: file, ...page }) => ({ ...page, open: async () => createReadStream(file) }));
    const zip = zipPages(files, { onPage: (done) => progress(done, pages.length) });
    const { bytes, sha256 } = await writeSynced(output(storePath), zip, signal);
    return { path: storePath, bytes, sha256, pages: pages.length };
  },
});

/** Counts and hashes on the way. Leaves no file behind when the source fails or the signal aborts. */
async function writeSynced(
  file: string,
  source: AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  async function* counted() {
    for await (const chunk of source) {
      signal.throwIfAborted();
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
  }
  await mkdir(path.dirname(file), { recursive: true });
  const handle = await open(file, 'wx');
  try {
    await handle.writeFile(counted());
    await handle.sync();
  } catch (error) {
    await rm(file, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
  return { bytes, sha256: hash.digest('hex') };
}
