import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import type { Config } from '../../config.ts';
import type { Database } from '../../db/client.ts';
import type { Queues } from '../../db/queues.ts';
import {
  findOriginal,
  findPage,
  findUpload,
  listOriginals,
  listPages,
  listUploads,
  type Upload,
} from '../../db/uploads.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { cancelUpload, deleteUpload, retryUpload } from '../../jobs/uploads.ts';
import type { Logger } from '../../log.ts';
import { uploadFolder } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import { callerOf, isVisible } from '../admission.ts';
import { createUpload } from '../create-upload.ts';
import { originalDisposition, pageDisposition } from '../disposition.ts';
import { originalDocument, pageDocument, uploadDocument, uploadSummary, webhookDocument } from '../documents.ts';
import { fingerprintOf, idempotencyOf, idempotent, sendAnswer } from '../idempotency.ts';
import { refuseOverload } from '../middleware/back-pressure.ts';
import { limitConcurrentUploads } from '../middleware/concurrent-uploads.ts';
import { discardFiles, receivedFiles, receiveFiles } from '../middleware/receive-files.ts';
import { notFound, parse } from '../problem.ts';
import { ordinal, uploadFields, uploadList } from '../schemas.ts';
import { sendArchive } from '../send-archive.ts';
import { type Statuses, uploadKey } from '../statuses/statuses.ts';
import type { Waiting } from '../waiting.ts';
import { type Guard, refuseForbidden } from '../webhooks/guard.ts';

const uuid = z.uuid().toLowerCase();

/** The calls of the Uploads table of the contract. */
export function uploadRoutes(parts: {
  db: Database;
  queues: Queues;
  store: Store;
  guard: Guard;
  config: Config;
  log: Logger;
  statuses: Statuses;
  waiting: Waiting;
}): Router {
  const { db, queues, store, config, statuses, waiting, log } = parts;
  const router = Router();

  async function requestedUpload(request: Request): Promise<Upload> {
    const id = idOf(request);
    const upload = await findUpload(db, id);
    if (upload === undefined || !isVisible(upload, callerOf(request))) throw notFound(`upload ${id}`);
    return upload;
  }

  /** The id in the path, as Postgres writes it. Throws 404 for what is none. */
  function idOf(request: Request): string {
    const id = uuid.safeParse(request.params.id);
    if (!id.success) throw notFound(`upload ${request.params.id}`);
    return id.data;
  }

  const receive = receiveFiles(store, config.MAX_UPLOAD_MB * 2 ** 20);
  router.post(
    '/uploads',
    limitConcurrentUploads(config.MAX_CONCURRENT_UPLOADS),
    refuseOverload(parts),
    idempotent(parts),
    receive,
    async (request: Request, response: Response) => {
      try {
        const fields = parse(uploadFields, { ...request.body });
        refuseForbidden(parts.guard, fields.notify_url);
        const files = receivedFiles(request);
        const idempotency = idempotencyOf(request);
        const sent = files.map(({ filename, received: { sha256 } }) => ({ filename, sha256 }));
        const fingerprint = fingerprintOf({ fields: request.body, sent });
        const known = idempotency.known(fingerprint);
        if (known !== undefined) {
          await discardFiles(request);
          return sendAnswer(response, known);
        }
        const answer = await createUpload(
          parts,
          callerOf(request).owner,
          fields,
          files,
          async (tx, upload, originals) => {
            const body = uploadDocument(upload, originals, []);
            const stored = { status: 200, location: `/uploads/${upload.id}`, body };
            await idempotency.keep(tx, fingerprint, stored);
            return stored;
          },
        );
        sendAnswer(response, answer);
      } catch (error) {
        await discardFiles(request);
        throw error;
      }
    },
  );

  /** For answers that tell of an upload's status by its row: what is read by GET .../status later is no older. */
  const forget = (...ids: string[]) => statuses.forget(ids.map(uploadKey));

  router.get('/uploads', async (request, response) => {
    const { status, limit, cursor } = parse(uploadList, { ...request.query });
    const found = await listUploads(db, { owner: callerOf(request).sees, status, limit: limit + 1, before: cursor });
    const items = found.slice(0, limit);
    await forget(...items.map(({ id }) => id));
    response.json({
      items: items.map(uploadSummary),
      next_cursor: found.length > limit ? (items.at(-1)?.id ?? null) : null,
    });
  });

  async function sendUpload(upload: Upload, response: Response): Promise<void> {
    const body = uploadDocument(upload, await listOriginals(db, upload.id), await listPages(db, upload.id));
    await forget(upload.id);
    response.json(body);
  }

  router.get('/uploads/:id', async (request, response) => {
    const { upload } = await waiting.hold(request, response, uploadKey(idOf(request)), async () => {
      const upload = await requestedUpload(request);
      return { upload, done: upload.finishedAt !== null };
    });
    await sendUpload(upload, response);
  });

  router.post('/uploads/:id/cancel', async (request, response) => {
    await cancelUpload(db, queues, (await requestedUpload(request)).id);
    await sendUpload(await requestedUpload(request), response);
  });

  router.post('/uploads/:id/retry', async (request, response) => {
    await retryUpload(db, queues, (await requestedUpload(request)).id);
    await sendUpload(await requestedUpload(request), response);
  });

  router.get('/uploads/:id/status', async (request, response) => {
    const id = idOf(request);
    const { body } = await waiting.hold(request, response, uploadKey(id), async () => {
      const known = await statuses.upload(id);
      if (known === undefined || !isVisible(known, callerOf(request))) throw notFound(`upload ${id}`);
      return known;
    });
    response.json(body);
  });

  router.get('/uploads/:id/pages', async (request, response) => {
    const { id, status } = await requestedUpload(request);
    await forget(id);
    response.json({ id, status, items: (await listPages(db, id)).map(pageDocument) });
  });

  router.get('/uploads/:id/originals', async (request, response) => {
    const { id } = await requestedUpload(request);
    response.json({ id, items: (await listOriginals(db, id)).map(originalDocument) });
  });

  router.get('/uploads/:id/webhooks', async (request, response) => {
    const { id } = await requestedUpload(request);
    response.json({ items: (await listWebhooks(db, { uploadId: id })).map(webhookDocument), next_cursor: null });
  });

  router.get('/uploads/:id/originals/:original', async (request, response) => {
    const upload = await requestedUpload(request);
    const number = ordinal.safeParse(request.params.original);
    const original = number.success ? await findOriginal(db, upload.id, number.data) : undefined;
    if (original === undefined) throw notFound(`original ${request.params.original}`);
    response.set('Content-Disposition', originalDisposition(original));
    await sendFile(response, store, original.path, original.sha256, original.mediaType);
  });

  router.get('/uploads/:id/pages/:original/:page.png', async (request, response) => {
    const upload = await requestedUpload(request);
    const { original, page } = request.params;
    const numbers = z.tuple([ordinal, ordinal]).safeParse([original, page]);
    const found = numbers.success ? await findPage(db, upload.id, ...numbers.data) : undefined;
    if (!found?.path || !found.sha256) throw notFound(`page ${page} of original ${original}`);
    response.set('Content-Disposition', pageDisposition(found, await findOriginal(db, upload.id, found.original)));
    await sendFile(response, store, found.path, found.sha256, 'image/png');
  });

  router.get('/uploads/:id/archive.zip', async (request, response) => {
    await sendArchive(request, response, parts, await requestedUpload(request));
  });

  router.delete('/uploads/:id', async (request, response) => {
    const { id } = await requestedUpload(request);
    if (!(await deleteUpload(db, queues, id))) throw notFound(`upload ${id}`);
    await forget(id);
    await store.removeFolder(uploadFolder(id)).catch((error) => {
      // It is gone for the client; what is left on disk is found as an orphan.
      log.error({ err: error, upload: id }, 'files of a deleted upload left to the sweep');
    });
    response.status(204).end();
  });

  return router;
}

/** Stored bytes never change: conditional and range requests are answered, and the answer may be kept for good. */
function sendFile(response: Response, store: Store, path: string, sha256: string, type: string): Promise<void> {
  response.set({ ETag: `"${sha256}"`, 'Content-Type': type, 'Cache-Control': 'private, max-age=31536000, immutable' });
  return new Promise((resolve, reject) => {
    const options = { root: store.localFile(''), cacheControl: false, lastModified: false };
    response.sendFile(path, options, (error) => {
      // A client that stops reading is no failure of ours.
      if (!error || response.headersSent || (error as NodeJS.ErrnoException).code === 'ECONNABORTED') return resolve();
      for (const header of ['ETag', 'Content-Type', 'Cache-Control', 'Content-Disposition'])
        response.removeHeader(header);
      reject(error);
    });
  });
}
