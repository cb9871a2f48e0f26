import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../../runtime/errors.ts';
import { archivePath } from '../../store/paths.ts';
import { defineUploadTask } from '../upload-task.ts';

/** Zips the pages that an upload has so far. */
export const archive = defineUploadTask({
  type: 'archive',
  payload: z.strictObject({ upload_id: z.uuid() }),
  resources: { cpuUnits: 1, memoryMb: 256 },
  reads: (payload) => payload.upload_id,
  readsOnly: 'pages',
  filePath: archivePath,
  async run({ files: { pages }, signal, output, progress }) {
    if (pages.length === 0) throw new AppError('task_failed', 'the upload has no pages yet', { retryable: true });
    const { zipPages } = await import('../zip-pages.ts');
    const files = pages.map(({ path: file, ...page }) => ({ ...page, open: async () => createReadStream(file) }));
    const zip = zipPages(files, { onPage: (done) => progress(done, pages.length) });
    await writeFile(output, zip, { signal });
    return { pages: pages.length };
  },
});
