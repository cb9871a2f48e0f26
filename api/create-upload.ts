import type { z } from 'zod';
import { type Database, isOutage, type Transaction } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import { originals } from '../db/schema.ts';
import { insertUpload, type Original, type Upload } from '../db/uploads.ts';
import { largestClass } from '../jobs/capacity.ts';
import type { Shape } from '../jobs/shape.ts';
import { submitJobs } from '../jobs/submit.ts';
import { transition } from '../jobs/transition.ts';
import { uploadFolder } from '../store/paths.ts';
import type { Store } from '../store/store.ts';
import { type ConvertPayload, convert, inspectionShape } from '../tasks/convert.ts';
import type { ReceivedUpload } from './middleware/receive-files.ts';
import type { uploadFields } from './schemas.ts';

/**
 * Stores the upload of the received files, its originals and one `convert` job for each in one transaction, in which `answer`
 * makes what this gives. When it throws, no row is stored and no file is left behind, unless the answer to the commit was lost.
 */
export async function createUpload<Answer>(
  { db, queues, store }: { db: Database; queues: Queues; store: Store },
  { owner, traceparent }: { owner: string | null; traceparent: string | null },
  fields: z.output<typeof uploadFields>,
  { id, files }: ReceivedUpload,
  answer: (tx: Transaction, upload: Upload, originals: Original[]) => Promise<Answer>,
): Promise<Answer> {
  const rows = files.map(({ original, filename, mediaType, received: { path, bytes, sha256 } }) => {
    return { uploadId: id, original, filename, mediaType, bytes, sha256, path };
  });
  /** Whether a COMMIT may have been sent. */
  let isCommitting = false;
  try {
    const most = await largestClass(db);
    const shapes = rows.map(({ mediaType, bytes }) => {
      const shape = inspectionShape(mediaType, bytes);
      return { ...shape, memoryMb: Math.min(shape.memoryMb, most) };
    });
    return await transition(db, async (tx) => {
      isCommitting = false;
      const upload = await insertUpload(tx, {
        id,
        owner,
        priority: fields.priority,
        dpi: fields.dpi,
        pageSelection: fields.pages ?? null,
        engine: fields.engine ?? null,
        password: fields.password ?? null,
        expiresAt: fields.expires_at ?? null,
        notifyUrl: fields.notify_url ?? null,
      });
      const stored = await tx.insert(originals).values(rows).returning();
      await submitJobs(
        tx,
        queues,
        rows.map(({ original, path, mediaType }, index) => ({
          type: convert.type,
          priority: fields.priority,
          shape: shapes[index] as Shape,
          owner,
          traceparent,
          uploadId: id,
          original,
          payload: {
            upload_id: id,
            original,
            path,
            media_type: mediaType,
            dpi: fields.dpi,
            page_selection: fields.pages ?? null,
            spent_seconds: 0,
            engine: fields.engine ?? null,
          } satisfies ConvertPayload,
        })),
      );
      const made = await answer(tx, upload, stored);
      isCommitting = true;
      return made;
    });
  } catch (error) {
    // A commit whose answer was lost may take place, even later than now: the sweep removes files without a row.
    if (!(isCommitting && isOutage(error))) await store.removeFolder(uploadFolder(id));
    throw error;
  }
}
