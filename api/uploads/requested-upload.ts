import type { Request } from 'express';
import type { Database, Queryable } from '../../db/client.ts';
import { findUpload, listOriginals, listSomePages, type Upload } from '../../db/uploads.ts';
import { isVisible } from '../http/caller.ts';
import { notFound } from '../http/problem.ts';
import { callerOf } from '../http/request-state.ts';
import { uploadDocument } from './documents.ts';
import { uploadId } from './requests.ts';

/** The maximum of pages in the document of an upload. */
const MAX_PAGES = 200;

/** A request whose path contains the id of an upload. */
export type UploadRequest = Request<{ id: string }>;

/** The id in the path, as Postgres writes it. Throws 404 for an invalid id. */
export function requestedId({ params }: UploadRequest): string {
  const id = uploadId.safeParse(params.id);
  if (!id.success) throw notFound(`upload ${params.id}`);
  return id.data;
}

/** The upload in the path. Throws 404 if it does not exist or the caller may not see it. */
export async function requestedUpload(db: Database, request: UploadRequest): Promise<Upload> {
  const id = requestedId(request);
  const upload = await findUpload(db, id);
  if (upload === undefined || !isVisible(upload, callerOf(request))) throw notFound(`upload ${id}`);
  return upload;
}

/** The document of an upload with its originals and first pages. */
export async function readUpload(db: Queryable, upload: Upload) {
  return uploadDocument(
    upload,
    await listOriginals(db, upload.id),
    await listSomePages(db, upload.id, { limit: MAX_PAGES }),
  );
}
