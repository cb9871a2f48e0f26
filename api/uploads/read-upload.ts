import type { Queryable } from '../../db/client.ts';
import { listOriginals, listSomePages, type Upload } from '../../db/uploads.ts';
import { uploadDocument } from './documents.ts';

const MAX_PAGES = 200;

/** The document of an upload with its originals and first pages. */
export async function readUpload(db: Queryable, upload: Upload) {
  return uploadDocument(
    upload,
    await listOriginals(db, upload.id),
    await listSomePages(db, upload.id, { limit: MAX_PAGES }),
  );
}
