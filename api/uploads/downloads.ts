import type { Request, Response } from 'express';
import { z } from 'zod';
import type { Database } from '../../db/client.ts';
import { findOriginal, findPage } from '../../db/uploads.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Store } from '../../store/store.ts';
import { originalDisposition, pageDisposition } from '../http/disposition.ts';
import { notFound } from '../http/problem.ts';
import { sendFile } from '../http/send-file.ts';
import { requestedUpload } from './requested-upload.ts';
import { ordinal } from './requests.ts';

interface Parts {
  db: Database;
  store: Store;
  log: Logger;
}

type OriginalRequest = Request<{ id: string; original: string }>;
type PageRequest = Request<{ id: string; original: string; page: string }>;

export async function sendOriginal(parts: Parts, request: OriginalRequest, response: Response): Promise<void> {
  const upload = await requestedUpload(parts.db, request);
  const number = ordinal.safeParse(request.params.original);
  const original = number.success ? await findOriginal(parts.db, upload.id, number.data) : undefined;
  if (original === undefined) throw notFound(`original ${request.params.original}`);
  const { path, sha256, bytes, mediaType: type } = original;
  const disposition = originalDisposition(original);
  await sendFile(request, response, parts, { path, sha256, bytes, type, disposition });
}

const pagePlace = z.tuple([ordinal, ordinal]);

export async function sendPage(parts: Parts, request: PageRequest, response: Response): Promise<void> {
  const upload = await requestedUpload(parts.db, request);
  const { original, page } = request.params;
  const place = pagePlace.safeParse([original, page]);
  const found = place.success ? await findPage(parts.db, upload.id, ...place.data) : undefined;
  const { path, sha256, bytes } = found ?? {};
  if (!found || !path || !sha256 || !bytes) throw notFound(`page ${page} of original ${original}`);
  const disposition = pageDisposition(found, await findOriginal(parts.db, upload.id, found.original));
  await sendFile(request, response, parts, { path, sha256, bytes, type: 'image/png', disposition });
}
